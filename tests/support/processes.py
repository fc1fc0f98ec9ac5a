"""Processes that tests start and end."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

STOP_SECONDS = 30.0


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the settings of TEMPO and of vLLM."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TEMPO_", "VLLM_"))}


def with_python_path(directory: Path) -> dict[str, str]:
    """Return the variable with which Python looks for modules in `directory` first."""
    paths = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def merged(*environments: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of all environments; the last one that sets a variable wins.

    The directories of PYTHONPATH are joined, those of the last environment first.
    """
    variables: dict[str, str] = {}
    for environment in environments:
        variables |= environment
    paths = [e["PYTHONPATH"] for e in reversed(environments) if "PYTHONPATH" in e]
    return variables | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def install(directory: Path, name: str, source: str, *, entry_points: str) -> None:
    """Write a module and its distribution's metadata, as `pip install` would leave them."""
    info = directory / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (directory / f"{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entry_points)


def is_alive(process_id: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
