"""Raise NotFoundError where a row does not exist."""

from typing import TypeVar

from tempo_storage.errors import NotFoundError

T = TypeVar("T")


def found(row: T | None, kind: str, key: object) -> T:
    """Return the row, or raise NotFoundError that names what was asked for."""
    if row is None:
        raise NotFoundError(f"no {kind} {key!r}; list the {kind}s to see which exist")
    return row
