"""Keep the data directory to its owner: directories 0700, files and sockets 0600.

Everything in it was learned from users, is a key, or decides which adapter serves.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
UMASK = 0o077
# Our own entries of a data directory; an operator may keep other things there.
OWN = (
    *("admin.key", ".admin.key-*", "serve.lock", "tempo.db*", "valkey.*", "appendonlydir"),
    *("adapters", "checkpoints", "files", "spool"),
)


def create_private(directory: Path) -> None:
    """Create a data directory, and take from others every right to it and to what is in it.

    From now on this process creates files that only their owner may read. A file that belongs to
    another user stays as it is, and `tempo doctor` names it.
    """
    os.umask(UMASK)
    directory.mkdir(parents=True, exist_ok=True)
    for path in exposed(directory):
        restrict(path)


def exposed(directory: Path) -> list[Path]:
    """Return the paths of a data directory to which group or others have any right."""
    return [path for path in _paths(directory) if _mode(path) & UMASK]


def restrict(path: Path) -> None:
    """Leave only the owner's rights to a file, a socket or a directory; pass over what fails."""
    mode = DIRECTORY_MODE if path.is_dir() else FILE_MODE
    try:
        path.chmod(mode)
    except OSError:  # it is another user's, is on a read-only disk, or has gone
        return


def _paths(directory: Path) -> Iterator[Path]:
    yield directory
    for pattern in OWN:
        for path in directory.glob(pattern):
            yield path
            for folder, names, files in os.walk(path):
                yield from (Path(folder, name) for name in (*names, *files))


def _mode(path: Path) -> int:
    """Return the bits of a path's rights; 0 for a symbolic link and for what has gone."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode)
