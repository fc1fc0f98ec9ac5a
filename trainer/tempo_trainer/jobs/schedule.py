"""Start the job that is due: a round, a recalibration, or a check of the serving version.

A round is due after enough new questions, a recalibration when the critic is stale or has drifted,
a check some time after a promotion. The rules read counts and times from the ledger. The job is an
ordinary one: an operator lists, watches and cancels it like any other.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.adapters import BASE
from tempo_storage.ledger.models import Job
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.jobs")
HOUR_SECONDS = 3600.0
CHECKS_KEPT = 100
RETRY_SECONDS = 60.0  # from the end of a check that did not finish to the next check


@dataclass(frozen=True, slots=True)
class Outlook:
    """The facts that decide whether a job is due."""

    now: float
    paused: bool
    busy: bool
    """A job is running, or queued and not stopped by a pause."""
    labeled: bool
    """There are labeled questions of both splits: the critic can be trained and measured."""
    new_questions: int
    """Distinct questions that were first asked after the last round was queued."""
    last_job_at: float
    """When the last round or recalibration was queued; each recalibrates the critic. 0 if there
    was none."""
    auroc: float | None
    """The critic's AUROC within held-out questions when the last round ended; None if it is unknown
    or if the critic was recalibrated since."""
    checked_at: float | None = None
    """When the serving version was promoted or last checked; None if the base serves."""
    check_ended_at: float = 0.0
    """When the last check ended, whether it finished, gave way or failed."""


@dataclass(frozen=True, slots=True)
class Due:
    """A job to be started, and the reason."""

    mode: str
    reason: str


def due(outlook: Outlook, settings: WorkerSettings) -> Due | None:
    """Return the job that must be started now; None if there is none.

    A check comes before training, because new questions would otherwise keep it away for ever. No
    pause holds a check.
    """
    if outlook.busy or not outlook.labeled:
        return None
    if check := _check_due(outlook, settings):
        return check
    return None if outlook.paused else _training_due(outlook, settings)


def _check_due(outlook: Outlook, settings: WorkerSettings) -> Due | None:
    interval = settings.sentinel_seconds
    if outlook.checked_at is None or not interval:
        return None
    unchecked = outlook.now - outlook.checked_at
    since_last = outlook.now - outlook.check_ended_at
    if unchecked < interval or since_last < min(interval, RETRY_SECONDS):
        return None
    return Due("check", f"the serving version was not checked for {unchecked:.0f} seconds")


def _training_due(outlook: Outlook, settings: WorkerSettings) -> Due | None:
    hours = (outlook.now - outlook.last_job_at) / HOUR_SECONDS
    if settings.recalibrate_hours and hours >= settings.recalibrate_hours:
        since = f"for {hours:.1f} hours" if outlook.last_job_at else "yet"
        return Due("recalibrate", f"the critic was not recalibrated {since}")
    if not settings.round_questions or outlook.new_questions < settings.round_questions:
        return None
    bound = settings.recalibrate_auroc
    if outlook.auroc is not None and outlook.auroc < bound:
        reason = (
            f"the AUROC within held-out questions drifted to {outlook.auroc:.2f}, below {bound:.2f}"
        )
        return Due("recalibrate", reason)
    return Due("round", f"{outlook.new_questions} new questions since the last round")


def look(s: Session, now: float) -> Outlook:
    """Read the facts from the ledger."""
    last_round = ledger.jobs.newest(s, "round")
    last_job = ledger.jobs.newest(s, *ledger.jobs.TRAINING)
    pointer = ledger.versions.serving(s)
    checked_at = max(pointer.changed_at, _last_check_end(s, "succeeded"))
    return Outlook(
        now=now,
        paused=ledger.training.get(s).paused,
        busy=bool(ledger.jobs.find(s, statuses=("running",), limit=1) or ledger.jobs.runnable(s)),
        labeled=all(ledger.labeled.count(s).values()),
        new_questions=ledger.pool.count_new(s, last_round.created_at if last_round else 0.0),
        last_job_at=last_job.created_at if last_job else 0.0,
        auroc=last_job.end.auroc if last_job and last_job.mode == "round" else None,
        checked_at=None if pointer.version == BASE else checked_at,
        check_ended_at=_last_check_end(s),
    )


def _last_check_end(s: Session, *statuses: str) -> float:
    """Return when the last check with one of these statuses ended; 0 if there was none."""
    checks = ledger.jobs.find(s, statuses=statuses, modes=("check",), limit=1)
    return max((check.finished_at or check.created_at for check in checks), default=0.0)


def start_due_job(s: Session, settings: WorkerSettings) -> Job | None:
    """Queue the job that is due, with an event that gives the reason; the caller rings for it."""
    ledger.training.lock(s)
    next_job = due(look(s, time.time()), settings)
    if next_job is None:
        return None
    options: dict[str, Any] = {"max_steps": None, "auto_promote": True, "training_file": None}
    options["schedule"] = next_job.reason
    message = f"{next_job.mode} is queued by the schedule: {next_job.reason}"
    job = ledger.jobs.queue(s, next_job.mode, options, message=message)
    ledger.jobs.delete_old(s, "check", keep=CHECKS_KEPT)
    logger.info("job %s: %s", job.id, message)
    return job
