"""Processes that a demonstration starts, each with a log file, stopped by pid."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from tempo_storage.errors import TempoError
from tempo_storage.processes import die_with_parent

START_SECONDS = 300.0
STOP_SECONDS = 40.0
LOG_LINES = 20


class ProcessError(TempoError, RuntimeError):
    """A process did not start or ended early; the message has the end of its log."""


class Process:
    """A child with a log file, ended by pid with all that it started."""

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, env: Mapping[str, str]):
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._popen.pid

    def wait_until_healthy(self, url: str) -> None:
        """Return when `url` answers 200; raise ProcessError when the child ends or is too slow."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with suppress(httpx.TransportError):
                if httpx.get(url, timeout=2.0).status_code == 200:
                    return
            time.sleep(0.25)
        raise ProcessError(f"{url} was not healthy within {START_SECONDS:.0f} s{self._tail()}")

    def check(self) -> None:
        """Raise ProcessError when the child has ended."""
        if self._popen.poll() is not None:
            raise ProcessError(f"a process ended with {self._popen.returncode}{self._tail()}")

    def stop(self) -> None:
        """Ask the child to end; end its whole session when it does not."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._popen.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return f"; {self.log} ends:\n" + "\n".join(lines)


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
