"""A running job: reasons for it to stop, its progress and events, and its committed iterations.

An iteration counts from its commit on. Whatever a worker computed after its last commit, the next
worker computes again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempo_storage import ledger
from tempo_storage.ledger.models import Iteration, Job
from tempo_trainer.errors import StoppedError
from tempo_trainer.jobs.progress import Progress
from tempo_trainer.learning import checkpoint
from tempo_trainer.learning.learner import Learner
from tempo_trainer.sampling.responses import Rollouts
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.versions.promotion import raise_if_cancelled, raise_if_moved

logger = logging.getLogger("tempo.jobs")
WARM_UP = 0  # position of the warm-up among the iterations of a job; its parts stand before it
MAX_DISCARDED = 3  # consecutive discarded steps that pause training


@dataclass(slots=True)
class RunningJob:
    """A job that this worker has claimed; `row` is its row as it was then."""

    row: Job
    sessions: LeasedSessions
    should_stop: Callable[[], bool]
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(lambda fields: self.set_progress(**fields))

    @property
    def id(self) -> str:
        """The job's id."""
        return self.row.id

    def raise_if_stopped(self) -> None:
        """Raise StoppedError if the worker stops, CancelledError if the job was cancelled."""
        if self.should_stop():
            raise StoppedError("the worker stops")
        with self.sessions.read() as s:
            raise_if_cancelled(ledger.jobs.get(s, self.id))

    def raise_if_training_stopped(self) -> None:
        """Raise as `raise_if_stopped` does; raise also in a pause, or if the pointer has moved.

        A pause raises StoppedError. A serving version that changed since the job began raises
        CancelledError.

        Call this between two iterations, or between two E-steps of a warm-up: nothing is lost
        there. A stopped job returns to the queue, and the worker is free for checks, which no pause
        stops.
        """
        self.raise_if_stopped()
        with self.sessions.read() as s:
            if ledger.training.get(s).paused:
                raise StoppedError("training is paused")
            raise_if_moved(s, self.row)

    def set_progress(self, **progress: Any) -> None:
        """Write the job's progress, which `tempo jobs` shows."""
        with self.sessions.write() as s:
            ledger.jobs.get(s, self.id).progress = progress

    def add_event(
        self, type: str, message: str, data: dict[str, Any], *, level: str = "info"
    ) -> None:
        """Add an event about the job, and a line to the log."""
        with self.sessions.write() as s:
            ledger.events.add(s, type, message, job_id=self.id, level=level, data=data)
        logger.info("job %s: %s: %s", self.id, type, message)

    def iterations(self) -> list[Iteration]:
        """Return the committed iterations of the job, those before a crash included."""
        with self.sessions.read() as s:
            return ledger.jobs.iterations(s, self.id)

    def starting_checkpoint(self) -> str:
        """Return the checkpoint from which the job continues.

        It is this job's last one; else the one where the last job ended, if the serving pointer has
        not moved since; else the serving version's. An operator who rolls back or promotes moves
        the pointer, and the last job may have ended at the version that was rolled back.
        """
        if rows := self.iterations():
            return rows[-1].checkpoint
        with self.sessions.read() as s:
            pointer = ledger.versions.serving(s)
            modes = ledger.jobs.TRAINING
            for last in ledger.jobs.find(s, statuses=("succeeded",), modes=modes, limit=1):
                if last.end.sequence == pointer.sequence and last.end.checkpoint is not None:
                    return last.end.checkpoint
            return ledger.versions.checkpoint_of(s, pointer.version)

    def commit(
        self,
        learner: Learner,
        position: int,
        metrics: Mapping[str, Any],
        *,
        draw: Rollouts | None = None,
        refined: bool = False,
    ) -> None:
        """Write the learner's checkpoint, then make the iteration count, in one transaction.

        `draw` is that of the captured questions. All of them count as drawn, so that one that is
        left out does not come first again. The policy learned from those with rollouts if it was
        `refined`. Checkpoints that nothing needs any more are deleted. Their names are read first:
        a worker that lost the lease while it slept deletes nothing that its successor wrote.
        """
        questions = draw.learned if draw else []
        root = learner.settings.checkpoints_dir
        old = checkpoint.names(root)
        parent = learner.checkpoint
        learner.save(f"{self.id}-{position}")
        row = Iteration(
            job_id=self.id,
            position=position,
            checkpoint=learner.checkpoint,
            parent=parent,
            question_ids=[question.id for question in questions],
            metrics=dict(metrics),
            refined=refined,
            epoch=self.sessions.epoch(),
        )
        with self.sessions.write() as s:
            s.add(row)
            s.flush()
            ledger.jobs.reset_attempts(s, self.id)
            ledger.learned.record(s, row.number, questions if refined else [])
            if draw:
                ledger.pool.record_draws(s, draw.questions)
            needed = {learner.checkpoint, *ledger.jobs.needed_checkpoints(s)}
        checkpoint.remove(root, old - needed)


def raise_if_spoiled(job: RunningJob, learner: Learner) -> None:
    """Pause training and raise StoppedError if the last optimiser steps of a role were discarded.

    More of the same steps would be discarded, too.
    """
    for role in (learner.networks.critic, learner.networks.policy):
        steps = role.optimiser.discarded
        if steps < MAX_DISCARDED:
            continue
        reason = (
            f"{steps} optimiser steps of the {role.name} in a row had a loss or gradient that is no"
            f" number; cancel the job, or restart the worker with a lower"
            f" TEMPO_{role.name.upper()}_LEARNING_RATE, then resume training"
        )
        role.optimiser.discarded = 0  # an operator who resumes training gives it three more
        with job.sessions.write() as s:
            ledger.training.set_paused(s, True, reason)
            ledger.events.add(s, "training.spoiled", reason, job_id=job.id, level="error")
        raise StoppedError(f"training is paused: {reason}")
