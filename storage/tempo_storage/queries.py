"""What server and trainer ask of the ledger; the caller's session decides when it commits."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from tempo_storage.errors import NotFoundError
from tempo_storage.models import (
    Adapter,
    Event,
    File,
    Iteration,
    Job,
    Key,
    LabeledExample,
    Lease,
    Question,
    Training,
)
from tempo_storage.questions import content_hash, is_for_sentinel

ACTIVE = ("queued", "running")
TRAINING = ("recalibrate", "round")  # what moves the checkpoint; a check does not
LEAST_HALF = 64  # held-out questions: eight answers to each tell a loss of six points
T = TypeVar("T")


# Questions -------------------------------------------------------------------------------------


def add_questions(s: Session, captured: Sequence[dict[str, Any]]) -> int:
    """Store captured questions and return how many were new.

    A question id that is already there is the stream's redelivery; a content that is labeled
    never enters the pool (the label wins, and held-out questions must stay unseen).
    """
    rows = {c["id"]: _question(c) for c in captured}
    known = set(s.scalars(select(Question.id).where(Question.id.in_(rows))))
    labeled = known_references(s, [q.content_hash for q in rows.values()])
    new = [q for q in rows.values() if q.id not in known and q.content_hash not in labeled]
    s.add_all(new)
    s.flush()
    return len(new)


def _question(captured: dict[str, Any]) -> Question:
    return Question(
        id=captured["id"],
        content_hash=captured.get("content_hash") or content_hash(captured["messages"]),
        messages=captured["messages"],
        chat_template_kwargs=captured.get("chat_template_kwargs") or {},
        tenant=captured.get("tenant") or "",
        adapter_version=captured.get("adapter_version", 0),
        sampling=captured.get("sampling") or {},
        captured_at=captured["captured_at"],
    )


def question_counts(s: Session) -> tuple[int, int]:
    """Return how many questions were captured, and how many are distinct."""
    counts = func.count(), func.count(func.distinct(Question.content_hash))
    captured, distinct = s.execute(select(*counts).select_from(Question)).one()
    return captured, distinct


# Labeled data ----------------------------------------------------------------------------------


def add_file(s: Session, file: File, examples: Iterable[LabeledExample]) -> None:
    """Store an uploaded file with its examples; what it labels leaves the unlabeled pool."""
    s.add(file)
    s.add_all(examples)
    s.flush()
    labeled = select(LabeledExample.content_hash)
    s.execute(delete(Question).where(Question.content_hash.in_(labeled)))


def files(s: Session) -> list[File]:
    """Return the uploaded files, newest first."""
    return list(s.scalars(select(File).order_by(File.created_at.desc())))


def file(s: Session, file_id: str) -> File:
    """Return one file or raise NotFoundError."""
    return _found(s.get(File, file_id), "file", file_id)


def examples(s: Session, split: str) -> list[LabeledExample]:
    """Return the labeled examples of `train` or `held_out`, in a stable order."""
    query = select(LabeledExample).where(LabeledExample.split == split)
    return list(s.scalars(query.order_by(LabeledExample.content_hash)))


def held_out(
    s: Session, reader: Literal["gate", "sentinel"], *, most: int
) -> tuple[list[LabeledExample], str]:
    """Return the held-out examples of the gate or the sentinel, and whether they are a half.

    The sentinel judges by questions that let nothing pass. Where a half would be too few to judge
    by, both read all. Of more than `most` those with the least hashes are taken, always the same.
    """
    every = examples(s, "held_out")
    halves: dict[str, list[LabeledExample]] = {"gate": [], "sentinel": []}
    for example in every:
        halves["sentinel" if is_for_sentinel(example.content_hash) else "gate"].append(example)
    if min(map(len, halves.values())) < LEAST_HALF:
        return every[:most], f"all {len(every)}, a half has fewer than {LEAST_HALF}"
    return halves[reader][:most], f"the {reader}'s half of {len(every)}"


def example_counts(s: Session) -> dict[str, int]:
    """Return the number of labeled examples of each split."""
    rows = s.execute(select(LabeledExample.split, func.count()).group_by(LabeledExample.split))
    return {"train": 0, "held_out": 0} | {split: count for split, count in rows}


def known_references(s: Session, hashes: Sequence[str]) -> dict[str, list[Any]]:
    """Return the references of those contents that are labeled already."""
    query = select(LabeledExample).where(LabeledExample.content_hash.in_(hashes))
    return {e.content_hash: e.reference for e in s.scalars(query)}


# Jobs and iterations ---------------------------------------------------------------------------


def create_job(s: Session, job_id: str, mode: str, settings: dict[str, Any]) -> Job:
    """Add a queued job."""
    job = Job(id=job_id, mode=mode, status="queued", settings=settings)
    s.add(job)
    s.flush()
    return job


def job(s: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return one job or raise NotFoundError; lock it to decide by its status."""
    return _found(s.get(Job, job_id, with_for_update=lock), "job", job_id)


def last_job(s: Session, *modes: str) -> Job | None:
    """Return the newest job of these modes, however it ended."""
    newest = select(Job).where(Job.mode.in_(modes)).order_by(Job.created_at.desc())
    return s.scalars(newest.limit(1)).first()


def jobs(
    s: Session, *, statuses: Sequence[str] = (), modes: Sequence[str] = (), limit: int = 100
) -> list[Job]:
    """Return jobs, newest first, of the given statuses and modes or of all."""
    query = select(Job).order_by(Job.created_at.desc()).limit(limit)
    query = query.where(Job.status.in_(statuses)) if statuses else query
    return list(s.scalars(query.where(Job.mode.in_(modes)) if modes else query))


def runnable(s: Session) -> list[Job]:
    """Return the queued jobs that may run now, the oldest first: a pause holds those that train."""
    modes = ("check",) if training(s).paused else ()
    return jobs(s, statuses=("queued",), modes=modes)[::-1]


def forget_jobs(s: Session, mode: str, *, keep: int) -> None:
    """Delete all but the newest jobs of a mode; of their events what was no error."""
    newest = select(Job.id).where(Job.mode == mode).order_by(Job.created_at.desc()).limit(keep)
    old = set(s.scalars(select(Job.id).where(Job.mode == mode, Job.id.not_in(newest))))
    s.execute(delete(Event).where(Event.job_id.in_(old), Event.level != "error"))
    s.execute(delete(Job).where(Job.id.in_(old)))


def forget_attempts(s: Session, job_id: str) -> None:
    """Count a job's attempts anew: this one has come further than those before."""
    s.execute(update(Job).where(Job.id == job_id).values(attempts=1))


def finish_job(
    s: Session, job_id: str, status: str, *, result: dict[str, Any] | None = None, error: str = ""
) -> None:
    """Record how a job ended; a cancelled one stays cancelled."""
    row = job(s, job_id, lock=True)
    if row.status in ACTIVE:
        row.status, row.error = status, error or None
    row.result = result or row.result
    row.finished_at = time.time()


def iterations(s: Session, job_id: str) -> list[Iteration]:
    """Return the committed iterations of a job, in order."""
    query = select(Iteration).where(Iteration.job_id == job_id)
    return list(s.scalars(query.order_by(Iteration.position)))


def metrics_of(s: Session, checkpoint: str) -> dict[str, Any]:
    """Return the metrics of the iteration that ended with a checkpoint; none of the untrained."""
    return s.scalar(select(Iteration.metrics).where(Iteration.checkpoint == checkpoint)) or {}


def needed_checkpoints(s: Session) -> set[str]:
    """Return the checkpoints that training may go on from: of versions, and of jobs."""
    kept = (row for row in s.scalars(select(Adapter)) if "swept" not in row.report)
    of_versions = [row.checkpoint for row in kept]
    ended = jobs(s, statuses=("succeeded",), modes=TRAINING, limit=10)
    of_jobs = (job.result.get("checkpoint", "") for job in ended)
    begun = [iterations(s, job.id)[-1:] for job in jobs(s, statuses=("queued", "running"))]
    of_begun = [row.checkpoint for last in begun for row in last]
    return {name for name in (*of_versions, *of_jobs, *of_begun) if name}


# Events, keys, pause ---------------------------------------------------------------------------


def add_event(
    s: Session,
    type: str,
    message: str,
    *,
    job_id: str | None = None,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Append an event; `level` is info, warning or error."""
    s.add(Event(job_id=job_id, level=level, type=type, message=message, data=data or {}))


def events(
    s: Session, *, job_id: str | None = None, after: int = 0, limit: int = 100
) -> list[Event]:
    """Return the events after number `after`, oldest first, of one job or of all."""
    query = select(Event).where(Event.number > after).order_by(Event.number).limit(limit)
    return list(s.scalars(query.where(Event.job_id == job_id) if job_id else query))


def last_error(s: Session) -> Event | None:
    """Return the newest event of level error."""
    query = select(Event).where(Event.level == "error").order_by(Event.number.desc())
    return s.scalars(query.limit(1)).first()


def keys(s: Session) -> list[Key]:
    """Return all admin keys, newest first."""
    return list(s.scalars(select(Key).order_by(Key.created_at.desc())))


def key(s: Session, key_id: str) -> Key:
    """Return one admin key or raise NotFoundError."""
    return _found(next((row for row in keys(s) if row.id == key_id), None), "key", key_id)


def training(s: Session) -> Training:
    """Return whether training is paused, and why."""
    return s.get_one(Training, 1)


def set_paused(s: Session, paused: bool, reason: str = "") -> Training:
    """Pause or resume training; survives restarts."""
    row = training(s)
    row.paused, row.reason, row.changed_at = paused, reason, time.time()
    add_event(s, "training.paused" if paused else "training.resumed", reason or "by request")
    return row


def lease(s: Session, name: str) -> Lease | None:
    """Return a lease, also an expired one."""
    return s.get(Lease, name)


def _found(row: T | None, kind: str, key: object) -> T:
    if row is None:
        raise NotFoundError(f"no {kind} {key!r}; list the {kind}s to see which exist")
    return row
