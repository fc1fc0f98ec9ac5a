"""Raise NotFoundError for a row that does not exist."""

from typing import TypeVar

from tempo_storage.errors import NotFoundError

T = TypeVar("T")


def require(row: T | None, kind: str, key: object) -> T:
    """Return the row; raise NotFoundError, which names its kind and key, if it is None."""
    if row is None:
        raise NotFoundError(f"no {kind} {key!r}; list the {kind}s to see which exist")
    return row
