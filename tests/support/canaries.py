"""Canaries: texts that a test can find again, byte for byte, in files, logs and stores."""

import contextlib
from pathlib import Path


def canary(name: str) -> str:
    """Return a text that occurs nowhere else; JSON and Redis store it as it is."""
    return f"canary-{name}-4711-0815"


def files_with(text: str, *roots: Path) -> list[str]:
    """Return the files below these directories that hold a text, with their directories."""
    found = []
    for root in roots:
        for path in sorted(root.rglob("*")):
            with contextlib.suppress(OSError):  # a socket, or a file that has just gone
                if path.is_file() and text.encode() in path.read_bytes():
                    found.append(str(path.relative_to(root)))
    return found
