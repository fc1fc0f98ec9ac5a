"""Keep child processes running: name their log lines, start them again, end them in time."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import IO

from tempo_storage.errors import TempoError

# Before each restart; a child that ends once more is given up.
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
STEADY_SECONDS = 60.0
TICK_SECONDS = 0.2
MAX_FAILED_STARTS = 2  # a child that was never ready has wrong arguments or too little memory
LOG_LINES = 20
ERROR_LINES = 10
MAX_CHARACTERS = 300  # of an error's line
# The last line of a traceback, with the process and the place in the code that vLLM puts before it.
ERROR = re.compile(r"^(?:\(\S+ pid=\d+\) ERROR .*?\] )?([A-Za-z_.]+(?:Error|Exception): .*)")
USAGE = 2  # argparse's exit code: the same arguments would fail again


class ChildError(TempoError, RuntimeError):
    """A child cannot be kept running; the message ends with its last log lines."""


@dataclass(eq=False, repr=False)  # the environment holds keys, so it must not be printed
class Child:
    """A process under supervision.

    It is started again after `pauses` seconds, a longer pause for each end in a row. An end after
    `steady_seconds` of service starts the row anew. A child that was never ready is given up after
    `failed_starts` starts.
    """

    name: str
    command: Sequence[str]
    _: KW_ONLY
    environment: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] = lambda: True
    stop_seconds: float = 10.0
    pauses: Sequence[float] = PAUSES_SECONDS
    steady_seconds: float = STEADY_SECONDS
    failed_starts: int = MAX_FAILED_STARTS
    ready_at: float | None = field(default=None, init=False)
    """The time at which it first was ready after its last start; None before."""
    was_killed: bool = field(default=False, init=False)
    """Whether `stop` killed it because it did not end in time."""

    def __post_init__(self) -> None:
        self._popen: subprocess.Popen[str] | None = None
        self._ends_in_a_row = 0
        self._next_start = 0.0
        self._was_ready = False
        self._last_lines: deque[str] = deque(maxlen=LOG_LINES)
        self._errors: deque[str] = deque(maxlen=ERROR_LINES)
        self._is_in_error = False

    def tick(self) -> None:
        """Start it if it is time, or notice that it is ready or has ended.

        Raises ChildError if it ended too often in a row, or because of its arguments.
        """
        now = time.monotonic()
        if self._popen is None:
            if now >= self._next_start:
                self._start()
        elif self._popen.poll() is not None:
            self._plan_restart(self._popen.returncode, now)
        elif self.ready_at is None and self.is_ready():
            self.ready_at = now
            self._was_ready = True

    def stop(self) -> None:
        """End it with SIGTERM, after `stop_seconds` with SIGKILL, and its children with SIGKILL."""
        if self._popen is None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            print_line(self.name, f"has not ended within {self.stop_seconds:.0f} s: killed")
            self.was_killed = True
        self._clean_up()

    def _start(self) -> None:
        self._errors.clear()
        self._popen = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            start_new_session=True,  # so that a terminal's Ctrl-C reaches only this process
        )
        assert self._popen.stdout is not None
        output = (self._popen.stdout,)
        self._relay = threading.Thread(target=self._print_output, args=output, daemon=True)
        self._relay.start()

    def _plan_restart(self, code: int, now: float) -> None:
        was_steady = self.ready_at is not None and now - self.ready_at >= self.steady_seconds
        self._ends_in_a_row = 1 if was_steady else self._ends_in_a_row + 1
        is_wrong_usage = code == USAGE and self.ready_at is None
        self._clean_up()
        starts = len(self.pauses) + 1
        if not self._was_ready:
            starts = min(starts, self.failed_starts)
        if is_wrong_usage or self._ends_in_a_row >= starts:
            times = "" if is_wrong_usage else f", {self._ends_in_a_row} times in a row"
            raise ChildError(f"{self.name} ended with {code}{times}; {self._reasons()}")
        pause = self.pauses[self._ends_in_a_row - 1]
        self._next_start = now + pause
        print_line(self.name, f"ended with {code}, starts again in {pause:g} s")

    def _reasons(self) -> str:
        """Return the errors of its last start, each once; else its last lines."""
        if self._errors:
            return "\n".join(["its errors:", *dict.fromkeys(self._errors)])
        return "\n".join(["its last lines:", *self._last_lines])

    def _keep_error(self, line: str) -> None:
        """Keep a line that names an error, and the indented lines below it, which explain it."""
        error = ERROR.match(line)
        if error or (self._is_in_error and line.startswith("  ")):
            text = error.group(1) if error else line.rstrip()
            self._errors.append(text[:MAX_CHARACTERS])
        self._is_in_error = bool(error) or (self._is_in_error and line.startswith("  "))

    def _clean_up(self) -> None:
        assert self._popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)  # the child and its own children
        self._popen.wait()
        self._relay.join(timeout=1.0)
        self._popen = None
        self.ready_at = None

    def _print_output(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._last_lines.append(line.rstrip())
                self._keep_error(line)
                print_line(self.name, line.rstrip())


class Supervisor:
    """Runs children in order: each starts when the one before it is ready."""

    def __init__(self, *children: Child, on_ready: Callable[[], None] = lambda: None) -> None:
        self._children = children
        self._on_ready = on_ready
        self._is_stopping = False  # no Event: a signal handler must not wait for its lock

    def stop(self, *_: object) -> None:
        """Let `run` return; a signal handler."""
        self._is_stopping = True

    def run(self) -> None:
        """Keep the children running until `stop`; then end them, the last one first."""
        was_ready = False
        try:
            while not self._is_stopping:
                for child in self._children:
                    child.tick()
                    if child.ready_at is None:
                        break
                else:
                    if not was_ready:
                        self._on_ready()
                    was_ready = True
                time.sleep(TICK_SECONDS)
        finally:
            print_line(
                "tempo", "stopping: the worker commits its iteration, vLLM finishes its requests"
            )
            for child in reversed(self._children):
                child.stop()


def print_line(actor: str, text: str) -> None:
    """Print a line under an actor's name; ignore that the reader of our output has gone."""
    with contextlib.suppress(OSError):
        print(f"{actor:<6} | {text}", flush=True)
