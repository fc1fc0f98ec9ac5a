"""Progress of a long command: which step runs, the share done, and the time left.

It needs only the standard library: docker/install.py uses it before anything is installed.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from tempo_trainer.worker.background import repeated_in_thread

LINE_SECONDS = 15.0
TICK_SECONDS = 1.0
# The pace counts as measured over this time before the start, so that one slow iteration at the
# beginning does not forecast hours.
PRIOR_SECONDS = 20.0
MAX_GUESS = 0.9  # a step without a count is at most this far until it ends


class Reporter:
    """Shows a line about the code in its block at least every `LINE_SECONDS`.

    `plan` has the steps in their order, each with the seconds that it takes on two cores. The pace
    of this machine, seconds taken per planned second, corrects the time left. A thread shows the
    lines, so the block may wait for anything without becoming silent.
    """

    def __init__(
        self,
        plan: Mapping[str, float],
        show: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = dict(plan)  # planned seconds of the steps that have not begun
        self._show = show
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = repeated_in_thread(self.tick, TICK_SECONDS)
        self._step = ""
        self._text = ""
        self._planned = 0.0  # planned seconds of the step that runs
        self._ended = 0.0  # planned seconds of the steps that have ended
        self._counted = 0.0  # share of the step that runs, by its iterations
        self._start = self._step_start = self._last_line = clock()

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.__exit__(None, None, None)

    def begin(self, step: str) -> None:
        """End the step that runs and begin another; forget the steps between them."""
        with self._lock:
            self._ended += self._planned
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
        """Show a line if it is time to; return the seconds until the next call."""
        with self._lock:
            if self._step and self._clock() - self._last_line >= LINE_SECONDS:
                self._write()
        return TICK_SECONDS

    def _write(self) -> None:
        self._last_line = self._clock()
        elapsed = self._last_line - self._start
        left = self._seconds_left(elapsed)
        share = elapsed / (elapsed + left) if left else 1.0
        text = f"{self._step}: {self._text}" if self._text else self._step
        self._show(f"{text}; {int(100 * share)} % done, {time_left(left)}")

    def _seconds_left(self, elapsed: float) -> float:
        share = self._counted
        if not share and self._planned:
            share = min(MAX_GUESS, (self._last_line - self._step_start) / self._planned)
        done = self._ended + share * self._planned
        pace = (elapsed + PRIOR_SECONDS) / (done + PRIOR_SECONDS)
        return pace * ((1 - share) * self._planned + sum(self._left.values()))


def time_left(seconds: float) -> str:
    """Return a duration as a reader estimates it."""
    if seconds < 60:
        return "less than 1 min left"
    return f"about {seconds / 60:.0f} min left"
