"""The trainer's state on disk: one directory per committed iteration, whole or absent."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tempo_storage.directories import written_whole
from tempo_storage.errors import NotFoundError

FILE = "state.pt"


def save(root: Path, name: str, state: dict[str, Any]) -> None:
    """Write `state` to `<root>/<name>`, whole or not at all; replace what stood there."""
    with written_whole(root / name) as directory:
        torch.save(state, directory / FILE)


def load(root: Path, name: str) -> dict[str, Any]:
    """Return the state of a committed iteration; raise NotFoundError if its file is gone."""
    path = root / name / FILE
    if not path.is_file():
        raise NotFoundError(f"no checkpoint {name!r} under {root}; start a new round from the base")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def names(root: Path) -> set[str]:
    """Return the names of all checkpoints, unfinished ones included."""
    return {directory.name for directory in root.iterdir()} if root.is_dir() else set()


def remove(root: Path, names: Iterable[str]) -> None:
    """Delete checkpoints."""
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)
