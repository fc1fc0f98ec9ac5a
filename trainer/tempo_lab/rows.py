"""Results as lines of JSON, each with the commit that it was made at."""

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]


def append(path: Path, rows: Iterable[Row], *, measured: Sequence[str]) -> None:
    """Add rows to a file, each with the last commit that changed one of the `measured` files.

    These are paths below `trainer/`.
    """
    commit = {"commit": last_commit(measured)}
    write(path, (row | commit for row in rows))


def write(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """Return the rows of a file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_commit(measured: Sequence[str]) -> str:
    """Return the short hash of the last commit that changed one of these files; + if it differs."""

    def git(*command: str) -> str:
        paths = ["--", *measured]
        return subprocess.check_output(
            ["git", "-C", str(ROOT), *command, *paths], text=True, timeout=30
        )

    try:
        changed = "+" if git("status", "--porcelain").strip() else ""
        return git("log", "-1", "--format=%h").strip() + changed
    except (OSError, subprocess.CalledProcessError):
        return "no commit"  # not a clone of the repository
