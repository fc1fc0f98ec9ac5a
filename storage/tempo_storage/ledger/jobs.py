"""Jobs and their iterations in the ledger."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tempo_storage.ledger import training
from tempo_storage.ledger.models import Adapter, Event, Iteration, Job
from tempo_storage.ledger.rows import found

ACTIVE = ("queued", "running")
TRAINING = ("recalibrate", "round")  # what moves the checkpoint; a check does not


def create(s: Session, job_id: str, mode: str, settings: dict[str, Any]) -> Job:
    """Add a queued job."""
    job = Job(id=job_id, mode=mode, status="queued", settings=settings)
    s.add(job)
    s.flush()
    return job


def get(s: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return one job or raise NotFoundError; lock it to decide by its status."""
    return found(s.get(Job, job_id, with_for_update=lock), "job", job_id)


def newest(s: Session, *modes: str) -> Job | None:
    """Return the newest job of these modes, however it ended."""
    query = select(Job).where(Job.mode.in_(modes)).order_by(Job.created_at.desc())
    return s.scalars(query.limit(1)).first()


def find(
    s: Session, *, statuses: Sequence[str] = (), modes: Sequence[str] = (), limit: int = 100
) -> list[Job]:
    """Return jobs, newest first, of the given statuses and modes or of all."""
    query = select(Job).order_by(Job.created_at.desc()).limit(limit)
    query = query.where(Job.status.in_(statuses)) if statuses else query
    return list(s.scalars(query.where(Job.mode.in_(modes)) if modes else query))


def runnable(s: Session) -> list[Job]:
    """Return the queued jobs that may run now, the oldest first: a pause holds those that train."""
    modes = ("check",) if training.get(s).paused else ()
    return find(s, statuses=("queued",), modes=modes)[::-1]


def delete_old(s: Session, mode: str, *, keep: int) -> None:
    """Delete all but the newest jobs of a mode; of their events what was no error."""
    newest = select(Job.id).where(Job.mode == mode).order_by(Job.created_at.desc()).limit(keep)
    old = set(s.scalars(select(Job.id).where(Job.mode == mode, Job.id.not_in(newest))))
    s.execute(delete(Event).where(Event.job_id.in_(old), Event.level != "error"))
    s.execute(delete(Job).where(Job.id.in_(old)))


def reset_attempts(s: Session, job_id: str) -> None:
    """Count a job's attempts anew: this one has come further than those before."""
    s.execute(update(Job).where(Job.id == job_id).values(attempts=1))


def finish(
    s: Session, job_id: str, status: str, *, result: dict[str, Any] | None = None, error: str = ""
) -> None:
    """Record how a job ended; a cancelled one stays cancelled."""
    row = get(s, job_id, lock=True)
    if row.status in ACTIVE:
        row.status, row.error = status, error or None
    row.result = result or row.result
    row.finished_at = time.time()


def iterations(s: Session, job_id: str) -> list[Iteration]:
    """Return the committed iterations of a job, in order."""
    query = select(Iteration).where(Iteration.job_id == job_id)
    return list(s.scalars(query.order_by(Iteration.position)))


def metrics(s: Session, checkpoint: str) -> dict[str, Any]:
    """Return the metrics of the iteration that ended with a checkpoint; none of the untrained."""
    return s.scalar(select(Iteration.metrics).where(Iteration.checkpoint == checkpoint)) or {}


def needed_checkpoints(s: Session) -> set[str]:
    """Return the checkpoints that training may go on from: of versions, and of jobs."""
    kept = (row for row in s.scalars(select(Adapter)) if "swept" not in row.report)
    of_versions = [row.checkpoint for row in kept]
    ended = find(s, statuses=("succeeded",), modes=TRAINING, limit=10)
    of_jobs = (job.result.get("checkpoint", "") for job in ended)
    begun = [iterations(s, job.id)[-1:] for job in find(s, statuses=("queued", "running"))]
    of_begun = [row.checkpoint for last in begun for row in last]
    return {name for name in (*of_versions, *of_jobs, *of_begun) if name}
