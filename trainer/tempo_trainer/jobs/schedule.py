"""Start the job that is due: a round after enough new questions, a recalibration of a stale critic,
a check of what serves.

What is due is a function of counts and times. The job is an ordinary one: listed, watched and
cancelled like those that a person starts.
"""

import logging
import secrets
import time
from dataclasses import dataclass

from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_storage.ledger.models import Job, Training
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.schedule")
HOUR_SECONDS = 3600.0
CHECKS_KEPT = 100
RETRY_SECONDS = 60.0  # from a check that came to nothing to the next


@dataclass(frozen=True, slots=True)
class Outlook:
    """What decides whether a job is due."""

    now: float
    paused: bool
    busy: bool
    """A job is running, or queued and not held by a pause."""
    labeled: bool
    """There are questions to calibrate the critic with, and others to judge it by."""
    new_questions: int
    """Distinct ones that were first asked after the last round began, however it ended."""
    last_job_at: float
    """When the last job of any kind was made: each recalibrates the critic. 0: never."""
    auroc: float | None
    """The critic's on held-out questions when the last round ended; None: recalibrated since."""
    checked_at: float | None = None
    """When the serving version was promoted, or its last check was done; None: the base serves."""
    check_ended_at: float = 0.0
    """When the last check ended, also one that gave way or failed."""


@dataclass(frozen=True, slots=True)
class Due:
    """A job to be started, and why."""

    mode: str
    reason: str


def due(seen: Outlook, settings: WorkerSettings) -> Due | None:
    """Return the job that is to be started now, if one is.

    A check comes first, or new questions would keep it away for ever; no pause stops it.
    """
    if seen.busy or not seen.labeled:
        return None
    return _check_due(seen, settings) or (None if seen.paused else _training_due(seen, settings))


def _check_due(seen: Outlook, settings: WorkerSettings) -> Due | None:
    if seen.checked_at is None or not settings.sentinel_seconds:
        return None
    seconds, interval = seen.now - seen.checked_at, settings.sentinel_seconds
    if seconds < interval or seen.now - seen.check_ended_at < min(interval, RETRY_SECONDS):
        return None
    return Due("check", f"the serving version was not checked for {seconds:.0f} seconds")


def _training_due(seen: Outlook, settings: WorkerSettings) -> Due | None:
    hours = (seen.now - seen.last_job_at) / HOUR_SECONDS
    if settings.recalibrate_hours and hours >= settings.recalibrate_hours:
        since = f"for {hours:.1f} hours" if seen.last_job_at else "yet"
        return Due("recalibrate", f"the critic was not recalibrated {since}")
    if not settings.round_questions or seen.new_questions < settings.round_questions:
        return None
    least = settings.recalibrate_auroc
    if seen.auroc is not None and seen.auroc < least:
        return Due("recalibrate", f"held-out AUROC drifted to {seen.auroc:.2f}, below {least:.2f}")
    return Due("round", f"{seen.new_questions} new questions since the last round")


def look(s: Session, now: float) -> Outlook:
    """Read the ledger."""
    last_round = ledger.jobs.newest(s, "round")
    last = ledger.jobs.newest(s, *ledger.jobs.TRAINING)
    pointer = ledger.versions.serving(s)
    checked, done = _ended(s, "succeeded"), _ended(s)
    return Outlook(
        now=now,
        paused=ledger.training.get(s).paused,
        busy=bool(ledger.jobs.find(s, statuses=("running",), limit=1) or ledger.jobs.runnable(s)),
        labeled=all(ledger.labeled.count(s).values()),
        new_questions=ledger.pool.count_new(s, last_round.created_at if last_round else 0.0),
        last_job_at=last.created_at if last else 0.0,
        auroc=last.result.get("critic_auroc") if last and last.mode == "round" else None,
        checked_at=None
        if pointer.version == ledger.versions.BASE
        else max(pointer.changed_at, checked),
        check_ended_at=done,
    )


def _ended(s: Session, *statuses: str) -> float:
    """Return when the last check of these statuses ended; 0 if there was none."""
    last = ledger.jobs.find(s, statuses=statuses, modes=("check",), limit=1)
    return max((job.finished_at or job.created_at for job in last), default=0.0)


def start_due_job(s: Session, settings: WorkerSettings) -> Job | None:
    """Queue the job that is due, with an event that says why; the caller rings for it."""
    s.get_one(Training, 1, with_for_update=True)  # one creator at a time, here or in a server
    found = due(look(s, time.time()), settings)
    if found is None:
        return None
    options = {"max_steps": None, "auto_promote": True, "training_file": None}
    job_id = f"ftjob-{secrets.token_hex(12)}"
    job = ledger.jobs.create(s, job_id, found.mode, options | {"schedule": found.reason})
    ledger.jobs.delete_old(s, "check", keep=CHECKS_KEPT)
    message = f"{found.mode} is queued by the schedule: {found.reason}"
    ledger.events.add(s, "job.queued", message, job_id=job_id)
    logger.info("job %s: %s", job_id, message)
    return job
