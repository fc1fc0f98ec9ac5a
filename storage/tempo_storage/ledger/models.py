"""The ledger's tables. Times are unix seconds; JSON columns hold only what no query asks for."""

import time
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Integer

Created = Annotated[float, mapped_column(default=time.time)]
Items = Annotated[list[Any], mapped_column(JSON)]
Data = Annotated[dict[str, Any], mapped_column(JSON, default=dict)]
# SQLite gives row ids by itself only to INTEGER; PostgreSQL wants the wide type.
RowId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Declarative root."""


class Question(Base):
    """An unlabeled question, as captured: one row per request."""

    __tablename__ = "questions"
    __table_args__ = (Index("questions_by_content", "content_hash", "captured_at"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str]
    messages: Mapped[Items]
    chat_template_kwargs: Mapped[Data]
    tenant: Mapped[str]
    adapter_version: Mapped[int]
    sampling: Mapped[Data]
    captured_at: Mapped[float]


class File(Base):
    """An uploaded file of labeled questions."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    summary: Mapped[Data]
    created_at: Mapped[Created]


class LabeledExample(Base):
    """A question with its reference; `split` is train or held_out."""

    __tablename__ = "labeled_examples"
    content_hash: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(index=True)
    messages: Mapped[Items]
    reference: Mapped[Items]
    verifier: Mapped[str]
    details: Mapped[Data]
    split: Mapped[str] = mapped_column(index=True)


class Job(Base):
    """A recalibration, a round or a check: queued, running, succeeded, failed or cancelled."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    settings: Mapped[Data]
    progress: Mapped[Data]
    result: Mapped[Data]
    error: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0)
    serving_sequence: Mapped[int | None] = mapped_column(BigInteger)
    """The serving pointer's when the job began: what it learns from is what served then."""
    created_at: Mapped[Created]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Iteration(Base):
    """A committed E-step with its M-step, and the checkpoint that holds what came of them.

    `parent` is the checkpoint that it went on from; "" is the untrained state.
    """

    __tablename__ = "iterations"
    __table_args__ = (UniqueConstraint("job_id", "position"),)
    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    job_id: Mapped[str]
    position: Mapped[int]
    checkpoint: Mapped[str]
    parent: Mapped[str] = mapped_column(default="")
    question_ids: Mapped[Items]
    metrics: Mapped[Data]
    epoch: Mapped[int]
    created_at: Mapped[Created]


class LearnedQuestion(Base):
    """A question of an M-step; stays when the question itself is pruned or erased."""

    __tablename__ = "learned_questions"
    iteration: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    question_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    content_hash: Mapped[str] = mapped_column(index=True)
    tenant: Mapped[str] = mapped_column(index=True)


class Adapter(Base):
    """A version: candidate, serving, retired, rejected or corrupt."""

    __tablename__ = "adapters"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    parent: Mapped[int]
    job_id: Mapped[str]
    checkpoint: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    lineage: Mapped[Data]
    report: Mapped[Data]
    created_at: Mapped[Created]


class Serving(Base):
    """The serving pointer, one row; `sequence` grows with every change."""

    __tablename__ = "serving"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    previous: Mapped[int]
    sequence: Mapped[int]
    reason: Mapped[str]
    changed_at: Mapped[float]


class ServerProcess(Base):
    """What an API process says that it serves."""

    __tablename__ = "server_processes"
    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    sequence: Mapped[int]
    error: Mapped[str | None]
    counters: Mapped[Data]
    seen_at: Mapped[float]


class Training(Base):
    """Whether training is paused, one row."""

    __tablename__ = "training"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    paused: Mapped[bool]
    reason: Mapped[str]
    changed_at: Mapped[float]


class Event(Base):
    """Something that an operator would want to know, in order of `number`."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_job", "job_id", "number"),)
    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    job_id: Mapped[str | None]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[Data]
    created_at: Mapped[Created]


class Key(Base):
    """An admin key, of which only the sha256 is kept."""

    __tablename__ = "keys"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[Items]
    created_at: Mapped[Created]

    @property
    def id(self) -> str:
        """What names it where its sha256 would be long."""
        return self.sha256[:12]


class Lease(Base):
    """Who may train; a new owner raises the epoch, which fences the old one's commits."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    owner: Mapped[str]
    expires_at: Mapped[float]
