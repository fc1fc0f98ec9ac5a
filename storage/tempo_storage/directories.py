"""Directories that are whole or absent, a power cut included."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """Yield a directory to write to; after the block it is synced and renamed to `final`.

    What stood there is replaced. A block that fails leaves the hidden directory, for a sweep.
    """
    aside = final.with_name(f".{final.name}-{os.getpid()}")
    replaced = aside.with_name(f"{aside.name}-replaced")
    for left in (aside, replaced):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    for path in (*aside.iterdir(), aside):
        fsync(path)
    with suppress(FileNotFoundError):
        final.rename(replaced)  # to delete it in place would show a part of it
    aside.rename(final)
    fsync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def fsync(path: Path) -> None:
    """Return when a file's content, or a directory's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
