"""The progress of a running job, for people: its phase, its counts, its pace and the time left."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError

WRITE_SECONDS = 1.0
MIN_SECONDS = 2.0  # a shorter time says nothing about the pace
Write = Callable[[dict[str, Any]], None]


class Progress:
    """Counts the steps of a stage and the responses of a step, and writes both to the job's row.

    A stage is the warm-up, the iterations or the gate. Its steps are E-steps or iterations; the
    gate counts as the last iteration. The fields are

    - `phase`: `e_step` (the warm-up), `sampling` or `m_step` (an iteration), or `gating`;
    - `iteration` and `of`: the step, and the number of the stage's last step;
    - `done` and `total`: the responses of the step that are sampled, and those that it needs;
    - `rate`: responses per second in this step;
    - `seconds_left`: until the end of the stage, at the pace so far.

    The last two are missing until the pace is known.
    """

    def __init__(self, write: Write, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._fields: dict[str, Any] = {}
        self._phase = ""
        self._last_write = 0.0
        self._stage_began = 0.0
        self._step_began = 0.0
        self._steps = -1  # steps of the stage that this process ended

    def begin(self, phase: str, *, of: int) -> None:
        """Begin a stage."""
        self._phase = phase
        self._stage_began = self._clock()
        self._steps = -1
        self._fields = {"of": of}

    def step(self, position: int, *, responses: int) -> None:
        """Begin a step, which needs so many responses; it may turn out to need more."""
        self._steps += 1
        self._step_began = self._clock()
        fields = {"phase": self._phase, "iteration": position, "done": 0, "total": responses}
        self.update(**fields)

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
        now = self._clock()
        done = self._fields["done"]
        if not done or now - self._stage_began < MIN_SECONDS:
            return {}
        rate = done / max(now - self._step_began, MIN_SECONDS)
        share = done / self._fields["total"]
        steps = self._fields["of"] - self._fields["iteration"] + 1 - share
        pace = (now - self._stage_began) / (self._steps + share)
        return {"rate": round(rate, 1), "seconds_left": round(pace * steps)}
