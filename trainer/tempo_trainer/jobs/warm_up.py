"""The warm-up: E-steps that fit the critic before the first M-step, or in a recalibration."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tempo_storage.ledger.models import Iteration
from tempo_trainer import clock
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.algorithm.fitness import unfit_reason
from tempo_trainer.algorithm.reports import Fitness
from tempo_trainer.errors import StoppedError
from tempo_trainer.jobs.progress import LEARNING, MEASURING
from tempo_trainer.jobs.round_reports import change, left_out, left_out_counts
from tempo_trainer.jobs.running import WARM_UP, RunningJob, raise_if_spoiled
from tempo_trainer.learning.learner import Learner
from tempo_trainer.sampling.responses import ResponseSource
from tempo_trainer.settings import TrainerSettings

HELD_OUT_BATCHES = 4  # they measure the critic before and after the warm-up
KEEP_SECONDS = 30.0  # a worker that is killed loses at most the E-steps of this time


def is_complete(rows: list[Iteration]) -> bool:
    """Tell whether a job's committed iterations have the whole warm-up."""
    return bool(rows) and rows[-1].position >= WARM_UP


@dataclass(slots=True)
class WarmUp:
    """Makes E-steps on fresh labeled rollouts, and commits the last one at position WARM_UP.

    If it is stopped, and every KEEP_SECONDS, it commits the E-steps since the last commit. Their
    position is the negative number of the E-steps that are missing, where another worker goes on.
    """

    job: RunningJob
    learner: Learner
    responses: ResponseSource
    settings: TrainerSettings
    adapter: str
    counts: Counter[str] = field(default_factory=Counter)
    """E-steps and samples since the last commit."""
    before: dict[str, float] = field(default_factory=dict)
    """The critic's figures before the first E-step."""

    def run(self, steps: int) -> None:
        """Make the E-steps out of `steps` that the job has not committed."""
        rows = self.job.iterations()
        missing = -rows[-1].position if rows else steps
        e_steps = sum(int(row.metrics["e_steps"]) for row in rows)
        self.job.progress.begin("e_step", of=e_steps + missing)
        if rows:
            names = ("auroc_before", "within_before")
            self.before = {name: _number(rows[0].metrics[name]) for name in names}
        else:
            fitness = self.learner.fitness(self._draw_held_out(0))
            self.before = {"auroc_before": fitness.auroc, "within_before": fitness.within_auroc}
        last_commit = time.monotonic()
        for left in range(missing - 1, -1, -1):
            self._stop_if_due(left + 1)
            self._make_step(e_steps + missing - left)
            if left and time.monotonic() - last_commit >= KEEP_SECONDS:
                self._commit(-left, {})
                last_commit = time.monotonic()
        self._finish(self._draw_held_out(e_steps + missing))

    def _stop_if_due(self, missing: int) -> None:
        """Commit the E-steps if the worker stops or training is paused."""
        try:
            self.job.raise_if_training_stopped()
        except StoppedError:
            if self.counts["e_steps"]:
                self._commit(-missing, {})
            raise

    def _make_step(self, position: int) -> None:
        count = self.settings.warm_up_questions
        self.job.progress.step(position, responses=count * self.settings.group_size)
        rollouts = self._draw("train", count)
        self.job.progress.update(activity=LEARNING)
        self.learner.make_e_step(rollouts)
        self.counts["e_steps"] += 1
        raise_if_spoiled(self.job, self.learner)

    def _draw_held_out(self, position: int) -> list[Rollout]:
        count = HELD_OUT_BATCHES * self.settings.held_out_per_step
        responses = count * self.settings.group_size
        self.job.progress.step(position, responses=responses, activity=MEASURING)
        return self._draw("held_out", count)

    def _draw(self, split: str, count: int) -> list[Rollout]:
        draw = self.responses.labeled_rollouts(split, count, self.adapter)
        self.counts.update(draw.figures())
        return draw.rollouts

    def _finish(self, held_out: list[Rollout]) -> None:
        """Measure the critic, commit the warm-up, and add an event that says how it went."""
        after = self.learner.fitness(held_out)
        self.learner.add_held_out(held_out)
        message = self._message(after)
        figures = {
            "message": message,
            "critic_auroc": after.auroc,
            "critic_within_auroc": after.within_auroc,
        }
        metrics = self._commit(WARM_UP, figures)
        level = "warning" if math.isnan(after.within_auroc) else "info"
        self.job.add_event("critic.recalibrated", message, metrics, level=level)

    def _message(self, after: Fitness) -> str:
        within = change(self.before["within_before"], after.within_auroc)
        parts = [
            "the critic's AUROC on held-out questions:"
            f" {change(self.before['auroc_before'], after.auroc)}; within a question: {within}"
        ]
        if math.isnan(after.within_auroc):
            parts.append(unfit_reason(after))
        earlier = [row.metrics for row in self.job.iterations()]
        if text := left_out(**left_out_counts([*earlier, self.counts])):
            parts.append(text)
        return "; ".join(parts)

    def _commit(self, position: int, figures: dict[str, Any]) -> dict[str, Any]:
        """Commit the E-steps since the last commit; return their metrics."""
        counts = {"e_steps": 0} | self.counts
        metrics = counts | self.before | figures | clock.take()
        self.job.commit(self.learner, position, metrics)
        self.counts.clear()
        return metrics


def _number(figure: float | None) -> float:
    """Return a figure of the ledger, which keeps null for what is no number."""
    return math.nan if figure is None else figure
