"""Jobs and their iterations in the ledger."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, literal, select, tuple_, update
from sqlalchemy.orm import Session

from tempo_storage.ledger import audit, events, leases, training
from tempo_storage.ledger.models import Adapter, Event, Iteration, Job, JobResult
from tempo_storage.ledger.rows import require

ACTIVE = ("queued", "running")
TRAINING = ("recalibrate", "round")  # these jobs move the checkpoint; a check does not


def queue(s: Session, mode: str, settings: dict[str, Any], *, message: str) -> Job:
    """Add a queued job and an event that says why; call `training.lock` first.

    The audit has jobs that train, and no checks of the serving version, which change nothing.
    """
    job = create(s, f"ftjob-{secrets.token_hex(12)}", mode, settings)
    events.add(s, "job.queued", message, job_id=job.id)
    if mode in TRAINING:
        audit.record(s, "job.queued", job.id, after={"mode": mode, **settings})
    return job


def create(s: Session, job_id: str, mode: str, settings: dict[str, Any]) -> Job:
    """Add a queued job."""
    job = Job(id=job_id, mode=mode, status="queued", settings=settings)
    s.add(job)
    s.flush()
    return job


def get(s: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return one job or raise NotFoundError; lock its row before you decide by its status."""
    return require(s.get(Job, job_id, with_for_update=lock), "job", job_id)


def newest(s: Session, *modes: str) -> Job | None:
    """Return the newest job of these modes, whatever its status."""
    return next(iter(find(s, modes=modes, limit=1)), None)


def page(s: Session, *, after: str | None, limit: int) -> list[Job]:
    """Return the `limit` newest jobs, or with `after`, an id, those that are older than it."""
    query = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
    if after is not None:
        last = get(s, after)
        age = tuple_(literal(last.created_at), literal(last.id))
        query = query.where(tuple_(Job.created_at, Job.id) < age)
    return list(s.scalars(query))


def find(
    s: Session, *, statuses: Sequence[str] = (), modes: Sequence[str] = (), limit: int = 100
) -> list[Job]:
    """Return the jobs of these statuses and modes, newest first; empty means all."""
    query = select(Job).order_by(Job.created_at.desc()).limit(limit)
    query = query.where(Job.status.in_(statuses)) if statuses else query
    return list(s.scalars(query.where(Job.mode.in_(modes)) if modes else query))


def runnable(s: Session) -> list[Job]:
    """Return the queued jobs that may run now, oldest first; during a pause only checks may."""
    modes = ("check",) if training.get(s).paused else ()
    return find(s, statuses=("queued",), modes=modes)[::-1]


def waits_for(s: Session, job: Job) -> str:
    """Return in words what a queued job waits for; "" if a worker takes it at once."""
    pause = training.get(s)
    if pause.paused and job.mode in TRAINING:
        reason = f" ({pause.reason})" if pause.reason else ""
        return f"training is paused{reason}; `tempo resume` lets it go on"
    for running in find(s, statuses=("running",), limit=1):
        return f"{running.id} ({running.mode}) runs"
    for first in runnable(s)[:1]:
        if first.id != job.id:
            return f"{first.id} ({first.mode}) comes first"
    return "" if leases.current(s) else "no worker runs; `tempo doctor` says more"


def delete_old(s: Session, mode: str, *, keep: int) -> None:
    """Delete all but the newest jobs of a mode, with their events that are no errors."""
    newest_ids = select(Job.id).where(Job.mode == mode).order_by(Job.created_at.desc()).limit(keep)
    old = set(s.scalars(select(Job.id).where(Job.mode == mode, Job.id.not_in(newest_ids))))
    s.execute(delete(Event).where(Event.job_id.in_(old), Event.level != "error"))
    s.execute(delete(Job).where(Job.id.in_(old)))


def reset_attempts(s: Session, job_id: str) -> None:
    """Count a job's attempts from 1 again, because this attempt got further than the last one."""
    s.execute(update(Job).where(Job.id == job_id).values(attempts=1))


def cancel(s: Session, job: Job) -> None:
    """Cancel a job that has not ended."""
    audit.record(s, "job.cancelled", job.id, before={"status": job.status})
    finish(s, job.id, "cancelled")
    events.add(s, "job.cancelled", "cancelled by request", job_id=job.id)


def finish(
    s: Session, job_id: str, status: str, *, result: JobResult | None = None, error: str = ""
) -> None:
    """Record how a job ended; a cancelled job stays cancelled."""
    job = get(s, job_id, lock=True)
    if job.status in ACTIVE:
        job.status = status
        job.error = error or None
    if result is not None:
        job.end = result
    job.finished_at = time.time()


def iterations(s: Session, job_id: str) -> list[Iteration]:
    """Return the committed iterations of a job, in order."""
    query = select(Iteration).where(Iteration.job_id == job_id)
    return list(s.scalars(query.order_by(Iteration.position)))


def checkpoints(s: Session, job_id: str, *, below: int | None, limit: int) -> list[Iteration]:
    """Return the newest iterations of a job; with `below`, a number, only those before it.

    A part of a warm-up has a negative position, and is none of them.
    """
    query = select(Iteration).where(Iteration.job_id == job_id, Iteration.position >= 0)
    query = query if below is None else query.where(Iteration.number < below)
    return list(s.scalars(query.order_by(Iteration.position.desc()).limit(limit)))


def metrics(s: Session, checkpoint: str) -> dict[str, Any]:
    """Return the metrics of the iteration that made a checkpoint; {} for the untrained state."""
    return s.scalar(select(Iteration.metrics).where(Iteration.checkpoint == checkpoint)) or {}


def needed_checkpoints(s: Session) -> set[str]:
    """Return the checkpoints from which training may continue.

    These are the checkpoints of all versions that are not swept, of the last ten jobs that trained
    with success, and of the last iteration of each job that has not ended.
    """
    versions = s.scalars(select(Adapter.checkpoint).where(Adapter.swept.is_(False)))
    ended = find(s, statuses=("succeeded",), modes=TRAINING, limit=10)
    last_iterations = [iterations(s, job.id)[-1:] for job in find(s, statuses=ACTIVE)]
    checkpoints = {
        *versions,
        *(job.end.checkpoint for job in ended),
        *(row.checkpoint for rows in last_iterations for row in rows),
    }
    return {checkpoint for checkpoint in checkpoints if checkpoint}
