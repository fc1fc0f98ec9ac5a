"""Where a job stands: may it go on, and how far has it come."""

from typing import Any

from tempo_storage import ledger
from tempo_storage.ledger.models import Job
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.learning.learner import Learner
from tempo_trainer.versions.promotion import refuse_if_moved


def go_on(learner: Learner, job: Job) -> None:
    """Return where a job may go on; raise StoppedError or CancelledError where it may not.

    A paused job returns to the queue, and the worker is free for the checks that no pause stops:
    nothing is lost between two iterations, and of a warm-up the E-steps that it has made.
    """
    if learner.world.should_stop():
        raise StoppedError("the worker was told to stop")
    with learner.world.sessions() as s:
        if ledger.jobs.get(s, job.id).status == "cancelled":
            raise CancelledError(f"job {job.id} was cancelled")
        if ledger.training.get(s).paused:
            raise StoppedError("training is paused")
        refuse_if_moved(s, job)


def set_progress(learner: Learner, job_id: str, **progress: Any) -> None:
    """Tell the ledger where a job stands."""
    with ledger.leases.fenced(learner.world.sessions, learner.world.epoch()) as s:
        ledger.jobs.get(s, job_id).progress = progress
