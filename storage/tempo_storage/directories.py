"""Write a directory so that it is whole or absent, even after a power cut.

Only its owner can read it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tempo_storage.private import restrict


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """Yield a hidden directory to write to; after the block, sync it and rename it to `final`.

    It replaces a directory of that name. If the block fails, the hidden directory stays until
    somebody deletes it.
    """
    hidden = final.with_name(f".{final.name}-{os.getpid()}")
    replaced = hidden.with_name(f"{hidden.name}-replaced")
    for leftover in (hidden, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    hidden.mkdir(parents=True)
    yield hidden
    for path in (*hidden.iterdir(), hidden):
        restrict(path)
        fsync(path)
    # Renamed, not deleted in place: a reader would see a half-deleted directory.
    with suppress(FileNotFoundError):
        final.rename(replaced)
    hidden.rename(final)
    fsync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def fsync(path: Path) -> None:
    """Return when the content of a file, or a directory's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
