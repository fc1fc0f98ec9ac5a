"""The progress of a running job, for people: its phase, its counts, its pace and the time left."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError

WRITE_SECONDS = 1.0
MIN_SECONDS = 2.0  # a shorter time says nothing about the pace
LEARNING = "learning"
MEASURING = "measuring"
Write = Callable[[dict[str, Any]], None]


class Progress:
    """Counts the steps of a stage and the responses of a step, and writes both to the job's row.

    A stage is the warm-up, the iterations or the gate. Its steps are E-steps or iterations; the
    gate counts as the last iteration. The fields are

    - `phase`: `e_step` (the warm-up), `sampling` or `m_step` (an iteration), or `gating`;
    - `iteration` and `of`: the step, and the number of the stage's last step;
    - `done` and `total`: the responses of the step that are sampled, and those that it needs;
    - `activity`: `sampling`, `learning`, or `measuring` (sampling for a measurement);
    - `rate`: responses per second in this step, while it samples;
    - `seconds_left`: until the end of the stage.

    The time left is that of the steps that ended, times those that are left. So it is missing in
    the first step. The gate has one step, which is all sampling; there the responses tell it.
    """

    def __init__(self, write: Write, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._fields: dict[str, Any] = {}
        self._phase = ""
        self._last_write = 0.0
        self._first_step_began = 0.0
        self._step_began = 0.0
        self._steps = -1  # steps of the stage that this process ended

    def begin(self, phase: str, *, of: int) -> None:
        """Begin a stage."""
        self._phase = phase
        self._steps = -1
        self._fields = {"of": of}

    def step(self, position: int, *, responses: int, activity: str = "sampling") -> None:
        """Begin a step, which needs so many responses; it may turn out to need more."""
        self._step_began = self._clock()
        if activity != MEASURING:  # a measurement is no step of its own
            self._steps += 1
        if not self._steps:
            self._first_step_began = self._step_began
        fields = {"phase": self._phase, "iteration": position, "done": 0, "total": responses}
        self.update(**fields, activity=activity)

    def update(self, **fields: Any) -> None:
        """Change fields, and write all."""
        self._fields |= fields
        self._last_write = self._clock()
        self._write(self._fields | self._pace())

    def sampled(self, count: int, missing: int) -> None:
        """Count responses; `missing` are those that their request still has to bring."""
        if "done" not in self._fields:
            return  # a check counts its questions itself
        done = self._fields["done"] + count
        total = max(self._fields["total"], done + missing)
        self._fields |= {"done": done, "total": total}
        if self._clock() - self._last_write >= WRITE_SECONDS:
            with contextlib.suppress(OperationalError):  # the job itself waits for the ledger
                self.update()

    def _pace(self) -> dict[str, Any]:
        seconds = self._clock() - self._step_began
        done = self._fields["done"]
        pace: dict[str, Any] = {}
        if done and self._fields["activity"] != LEARNING and seconds >= MIN_SECONDS:
            pace["rate"] = round(done / seconds, 1)
        left = self._seconds_of_steps(seconds)
        if self._phase == "gating" and pace:
            left = seconds * (self._fields["total"] / done - 1)
        return pace | ({"seconds_left": round(left)} if left else {})

    def _seconds_of_steps(self, seconds: float) -> float:
        """Return the time left of this step, `seconds` old, and of those after it.

        It is 0 while nobody knows, and in a measurement, which is no step.
        """
        if self._steps < 1 or self._fields["activity"] == MEASURING:
            return 0.0
        mean = (self._step_began - self._first_step_began) / self._steps
        later: int = self._fields["of"] - self._fields["iteration"]
        return mean * later + max(0.0, mean - seconds)
