"""Keep child processes running: prefixed logs, restarts with a pause, an end in time."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import IO

from tempo_storage.errors import TempoError

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)  # one death more than pauses, all fast, ends it all
STEADY_SECONDS = 60.0
TICK_SECONDS = 0.2
LOG_LINES = 20
USAGE = 2  # argparse's exit code: the same arguments fail again


class ChildError(TempoError, RuntimeError):
    """A child cannot be kept running; the message ends with its last log lines."""


@dataclass(eq=False, repr=False)  # the environment holds keys
class Child:
    """One process under supervision, and what it has said and done so far."""

    name: str
    command: Sequence[str]
    _: KW_ONLY
    environment: Mapping[str, str] = field(default_factory=dict)
    answers: Callable[[], bool] = lambda: True
    stop_seconds: float = 10.0
    pauses: Sequence[float] = PAUSES_SECONDS
    steady_seconds: float = STEADY_SECONDS
    ready_at: float | None = field(default=None, init=False)
    """Since when it answers, since its last start."""

    def __post_init__(self) -> None:
        self._popen: subprocess.Popen[str] | None = None
        self._deaths = 0
        self._next_start = 0.0
        self._last_lines: deque[str] = deque(maxlen=LOG_LINES)

    def tick(self) -> None:
        """Start it when it is due, and notice that it answers or has ended.

        Raises ChildError when it has ended fast too often in a row, or over its arguments.
        """
        now = time.monotonic()
        if self._popen is None:
            if now >= self._next_start:
                self._start()
        elif self._popen.poll() is not None:
            self._ended(self._popen.returncode, now)
        elif self.ready_at is None and self.answers():
            self.ready_at = now

    def stop(self) -> None:
        """End it and all that it started: politely, then by force."""
        if self._popen is None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            say(self.name, f"has not ended within {self.stop_seconds:.0f} s: killed")
        self._clean_up()

    def _start(self) -> None:
        self._popen = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone
        )
        assert self._popen.stdout is not None
        self._relay = threading.Thread(target=self._pass_on, args=(self._popen.stdout,))
        self._relay.daemon = True
        self._relay.start()

    def _ended(self, code: int, now: float) -> None:
        was_steady = self.ready_at is not None and now - self.ready_at >= self.steady_seconds
        self._deaths = 1 if was_steady else self._deaths + 1
        over_arguments = code == USAGE and self.ready_at is None
        self._clean_up()
        if over_arguments or self._deaths > len(self.pauses):
            times = "" if over_arguments else f", {self._deaths} times in a row"
            lines = "\n".join(self._last_lines)
            raise ChildError(f"{self.name} ended with {code}{times}; its last lines:\n{lines}")
        pause = self.pauses[self._deaths - 1]
        self._next_start = now + pause
        say(self.name, f"ended with {code}, starts again in {pause:g} s")

    def _clean_up(self) -> None:
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)  # its own children too
        self._popen.wait()
        self._relay.join(timeout=1.0)
        self._popen = self.ready_at = None

    def _pass_on(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._last_lines.append(line.rstrip())
                say(self.name, line.rstrip())


class Supervisor:
    """Children in the order of their start: each waits until the one before answers."""

    def __init__(self, *children: Child, on_ready: Callable[[], None] = lambda: None) -> None:
        self._children = children
        self._on_ready = on_ready
        self._stopping = False  # an Event's lock is no thing for a signal handler

    def stop(self, *_: object) -> None:
        """Let `run` return; a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Keep the children running until `stop`; then end them, the last one first."""
        told = False
        try:
            while not self._stopping:
                for child in self._children:
                    child.tick()
                    if child.ready_at is None:
                        break
                else:
                    if not told:
                        self._on_ready()
                    told = True
                time.sleep(TICK_SECONDS)
        finally:
            say("tempo", "stopping: an iteration is committed, requests under way are finished")
            for child in reversed(self._children):
                child.stop()


def say(actor: str, text: str) -> None:
    """Print a line under an actor's name; who reads our output may go, a child must not block."""
    with contextlib.suppress(OSError):
        print(f"{actor:<6} | {text}", flush=True)
