"""Processes of demo, learn, smoke test and benchmarks; each has a log and is stopped by its id."""

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
    """A process did not become healthy, or ended early; the message has the end of its log."""


class Process:
    """A Python module that runs as a child process and writes to a log file."""

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, env: Mapping[str, str]):
        self.module = module
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
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

    def wait_until_healthy(self, url: str) -> None:
        """Wait until `url` answers 200; raise ProcessError when the child ends or is too slow."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with suppress(httpx.TransportError):
                if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                    return
            time.sleep(0.25)
        raise ProcessError(f"{url} did not answer within {START_SECONDS:.0f} s{self._tail()}")

    def check(self) -> None:
        """Raise ProcessError when the child has ended."""
        if self._popen.poll() is not None:
            raise ProcessError(
                f"{self.module} ended with exit code {self._popen.returncode}{self._tail()}"
            )

    def stop(self) -> None:
        """Ask the child to end; after 40 s, kill it with every process that it started."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return f"; {self.log} ends:\n" + "\n".join(lines)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
