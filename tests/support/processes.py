"""Processes that tests start and end."""

import os
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
