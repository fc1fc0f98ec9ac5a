"""Progress of a long command: which step runs, the share done, and the time left.

It needs only the standard library: docker/install.py uses it before anything is installed.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from tempo_trainer.worker.background import repeated

LINE_SECONDS = 15.0
TICK_SECONDS = 1.0
# The pace counts as measured over this time before the first iteration, so that one slow iteration
# at the start does not forecast hours.
PRIOR_SECONDS = 20.0
MAX_GUESS = 0.9  # a step without a count is at most this far until it ends

Show = Callable[[str, float], None]
"""Called with a line of text and the share done."""


class Reporter:
    """Shows the progress of the code in its block, at least every `interval` seconds.

    `plan` has the steps in their order, each with the seconds that it takes on two cores. A step
    that counts its iterations measures the pace of this machine, and the pace corrects the plan.
    A thread shows the progress, so the block may wait for anything without becoming silent.
    """

    def __init__(
        self,
        plan: Mapping[str, float],
        show: Show,
        *,
        interval: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = dict(plan)
        self._show = show
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = repeated(self.tick, TICK_SECONDS)
        self._step = ""
        self._text = ""
        self._planned = 0.0  # seconds that the plan gives the step that runs
        self._counted = 0.0  # share of the step that runs, by its iterations
        # Seconds of the ended steps that counted: by the plan, and on this machine.
        self._pace_planned = PRIOR_SECONDS
        self._pace_taken = PRIOR_SECONDS
        self._start = self._step_start = self._last_line = clock()

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.__exit__(None, None, None)

    def begin(self, step: str) -> None:
        """End the step that runs and begin another; the steps before it in the plan are over."""
        with self._lock:
            self._counted = 1.0 if self._counted else 0.0  # the last iterations may be unreported
            self._pace_planned, self._pace_taken = self._pace()
            for name in list(self._left)[: list(self._left).index(step)]:
                del self._left[name]
            self._planned = self._left.pop(step)
            self._step = step
            self._text = ""
            self._counted = 0.0
            self._step_start = self._clock()
            self._write()

    def update(self, text: str, iterations: float = 0.0, total: float | None = None) -> None:
        """Set what the next line says, and how many of the step's iterations are done."""
        with self._lock:
            self._text = text
            self._counted = min(1.0, iterations / total) if total else 0.0

    def tick(self) -> float:
        """Show the progress if it is time to; return the seconds until the next call."""
        with self._lock:
            if self._step and self._clock() - self._last_line >= self._interval:
                self._write()
        return TICK_SECONDS

    def _write(self) -> None:
        self._last_line = self._clock()
        left = self._seconds_left()
        elapsed = self._last_line - self._start
        share = elapsed / (elapsed + left) if left else 1.0
        text = f"{self._step}: {self._text}" if self._text else self._step
        self._show(f"{text}; {int(100 * share)} % done, {time_left(left)}", share)

    def _seconds_left(self) -> float:
        planned, taken = self._pace()
        pace = taken / planned
        share = self._counted
        if not share and self._planned:
            share = min(MAX_GUESS, self._step_seconds() / (self._planned * pace))
        return pace * (self._planned * (1 - share) + sum(self._left.values()))

    def _pace(self) -> tuple[float, float]:
        """Return planned and taken seconds of the iterations that this command has counted."""
        planned = self._pace_planned + self._planned * self._counted
        taken = self._pace_taken + (self._step_seconds() if self._counted else 0.0)
        return planned, taken

    def _step_seconds(self) -> float:
        return self._clock() - self._step_start


def time_left(seconds: float) -> str:
    """Return a duration as a reader estimates it."""
    if seconds < 60:
        return "less than 1 min left"
    return f"about {seconds / 60:.0f} min left"
