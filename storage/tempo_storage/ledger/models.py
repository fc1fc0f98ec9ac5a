"""The ledger's tables. Times are unix seconds.

A fact that decides something has a column of its own. A JSON column holds a list, the arguments of
a call (a job's `settings`, an example's `details` for its verifier), or a report that only people
read.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, composite, mapped_column
from sqlalchemy.types import Integer

Created = Annotated[float, mapped_column(default=time.time)]
Items = Annotated[list[Any], mapped_column(JSON)]
Data = Annotated[dict[str, Any], mapped_column(JSON, default=dict)]
# SQLite numbers rows by itself only if the type is INTEGER; PostgreSQL needs the wide type.
RowId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """The root of all tables."""


class Question(Base):
    """An unlabeled question as a user asked it: one row for each request.

    Rows with one `content_hash` are one text, and those with one `pool_hash` count as one question.
    Those with one `loose_hash` are one question that is dressed differently (`question_hash.py`).
    The content of a message is a text, or a list of parts with a text each. `messages` is [] where
    TEMPO_CAPTURE=hash kept the hashes only. `tenant` is a hash that names who asked, or "" for the
    tenant "anonymous"; `owner` is the tenant that asked the question first. `temperature`, `top_p`,
    `top_k` and `max_tokens` are the request's own arguments; None where it did not set them.
    """

    __tablename__ = "questions"
    __table_args__ = (
        Index("questions_by_content", "content_hash", "captured_at"),
        Index("questions_by_pool_hash", "pool_hash", "captured_at"),
        Index("questions_by_owner", "owner", "pool_hash", "captured_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str]
    loose_hash: Mapped[str] = mapped_column(index=True)
    messages: Mapped[Items]
    chat_template_kwargs: Mapped[Data]
    tenant: Mapped[str]
    temperature: Mapped[float | None]
    top_p: Mapped[float | None]
    top_k: Mapped[int | None]
    max_tokens: Mapped[int | None]
    captured_at: Mapped[float]
    draws: Mapped[int] = mapped_column(default=0)
    """How often it was drawn; a new question begins with the fewest draws of the pool."""
    pool_hash: Mapped[str]
    owner: Mapped[str]


class Tenant(Base):
    """A tenant that asked; training does not learn from one in quarantine.

    `questions` counts the distinct questions that it was the first to ask, also those that were
    deleted since.
    """

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    questions: Mapped[int]
    last_asked_at: Mapped[float] = mapped_column(index=True)
    quarantined: Mapped[bool]


class DeadLetter(Base):
    """An entry of the stream that could not be stored as a question.

    `entry` is its JSON, cut at 65,536 characters; `reason` is the class of the error.
    """

    __tablename__ = "dead_letters"
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    entry: Mapped[str]
    created_at: Mapped[Created]


class Erasure(Base):
    """The last time at which a tenant's questions were erased; none that is older is stored."""

    __tablename__ = "erasures"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[float]


class File(Base):
    """An uploaded file of labeled questions.

    The row of a deleted file stays, because versions may have learned from it.
    """

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    summary: Mapped[Data]
    created_at: Mapped[Created]
    deleted_at: Mapped[float | None]


class FileExample(Base):
    """A question that a file labels, and its split.

    The row stays when the file or the example is deleted. So a question that is labeled again
    returns to its split.
    """

    __tablename__ = "file_examples"
    file_id: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str] = mapped_column(primary_key=True, index=True)
    split: Mapped[str]


class LabeledExample(Base):
    """A question with its accepted answers (`reference`).

    No captured question with the same `loose_hash` is in the unlabeled pool. `split` is train or
    held_out; it is decided when the example is stored, and never changes.
    `file_id` is the file that labeled it first; FileExample has all files that label it.
    """

    __tablename__ = "labeled_examples"
    content_hash: Mapped[str] = mapped_column(primary_key=True)
    loose_hash: Mapped[str] = mapped_column(index=True)
    file_id: Mapped[str] = mapped_column(index=True)
    messages: Mapped[Items]
    chat_template_kwargs: Mapped[Data]
    reference: Mapped[Items]
    verifier: Mapped[str]
    details: Mapped[Data]
    split: Mapped[str] = mapped_column(index=True)


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended: a report for people, and the facts that decide about later jobs."""

    report: dict[str, Any]
    checkpoint: str | None = None
    """The checkpoint from which the next job that trains continues."""
    sequence: int | None = None
    """The next job continues there only if the serving pointer still has this sequence."""
    auroc: float | None = None
    """The critic's AUROC on held-out questions at the end of a round."""
    checked_version: int | None = None
    """The version that a check compared with the base."""
    below_base: bool | None = None
    """True if the check found that version below the base."""


class Job(Base):
    """A recalibration, a round or a check: queued, running, succeeded, failed or cancelled.

    `settings` holds the options of the request: `max_steps` limits the iterations, `auto_promote`
    lets the gate promote. `training_file` is stored and shown, but a job learns from all files.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("jobs_by_age", "created_at", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    settings: Mapped[Data]
    progress: Mapped[Data]
    result: Mapped[Data]
    error: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0)
    serving_sequence: Mapped[int | None] = mapped_column(BigInteger)
    """The sequence of the serving pointer when the job began."""
    end: Mapped[JobResult] = composite(
        "result",
        mapped_column("end_checkpoint"),
        mapped_column("end_sequence", BigInteger),
        mapped_column("end_auroc"),
        mapped_column("checked_version"),
        mapped_column("below_base"),
    )
    """The result in its columns; its checkpoint is None while no decision is committed."""
    created_at: Mapped[Created]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Iteration(Base):
    """A committed E-step with its M-step, and the checkpoint that holds their result.

    `parent` is the checkpoint at which it began; "" is the untrained state.
    """

    __tablename__ = "iterations"
    __table_args__ = (UniqueConstraint("job_id", "position"),)
    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    job_id: Mapped[str]
    position: Mapped[int]
    checkpoint: Mapped[str]
    parent: Mapped[str] = mapped_column(default="")
    refined: Mapped[bool] = mapped_column(default=False)
    """True if it made an M-step, so that the policy learned from its questions."""
    question_ids: Mapped[Items]
    metrics: Mapped[Data]
    epoch: Mapped[int]
    created_at: Mapped[Created]


class LearnedQuestion(Base):
    """A question that an M-step learned from; it stays when the question's own row is deleted.

    `loose_hash` and `tenant` are "" where that row was gone before this one was written. A row that
    version 0.1 wrote, and whose question was gone before the migration, has `old_hash` in the place
    of `loose_hash` (`question_hash.py`).
    """

    __tablename__ = "learned_questions"
    iteration: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    question_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    loose_hash: Mapped[str] = mapped_column(index=True)
    tenant: Mapped[str] = mapped_column(index=True)


class Adapter(Base):
    """A version of the adapter.

    | `status`  | set when                                                   | may serve?    |
    |-----------|------------------------------------------------------------|---------------|
    | candidate | a round has published it                                   | yes           |
    | serving   | it is promoted                                             | it serves     |
    | retired   | another version replaces it                                | yes           |
    | rejected  | the gate rejects it, the sentinel rolls it back, or        | only by force |
    |           | another version replaces it after it was `forced`          |               |
    | corrupt   | its files differ from its manifest, or its probe failed    | never         |

    A version that is `swept` never serves again, whatever its status. `lineage` says how it was
    trained. `report` says how the gate, the probe and the sentinel found it, and why it was
    rejected or corrupt.
    """

    __tablename__ = "adapters"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    parent: Mapped[int]
    job_id: Mapped[str]
    checkpoint: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    swept: Mapped[bool] = mapped_column(default=False)
    """True after its files were deleted to free disk space; it can never serve again."""
    forced: Mapped[bool] = mapped_column(default=False)
    """True after a person promoted it although the gate rejected it."""
    lineage: Mapped[Data]
    report: Mapped[Data]
    created_at: Mapped[Created]


class PublishedAdapter(Base):
    """The sha256 of each file of an adapter, a version or a trial, as it was published.

    `files` is {} for a version that was published before the ledger kept them, until a server has
    compared its files with its manifest.
    """

    __tablename__ = "published_adapters"
    name: Mapped[str] = mapped_column(primary_key=True)
    files: Mapped[Data]


class GateTest(Base):
    """A comparison, by the gate, of a job's candidate with what serves.

    `held_out` is the digest of the held-out questions that decided. `counted` is False after an
    operator reset the count; such a test no longer adds to the limit.
    """

    __tablename__ = "gate_tests"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    held_out: Mapped[str]
    promoted: Mapped[bool]
    counted: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[Created]


class Serving(Base):
    """The serving pointer: one row that says which version answers users.

    `previous` served before `version`, or is `version` itself if the version before must not serve
    again. Both start at the base. Each change adds one to `sequence`.
    """

    __tablename__ = "serving"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    previous: Mapped[int]
    sequence: Mapped[int]
    reason: Mapped[str]
    changed_at: Mapped[float]


class ServerProcess(Base):
    """An API process, and the version with which it says that it answers.

    `error` says why it could not follow the serving pointer. `held` lists the adapters that it has
    loaded or still answers requests with; their files must stay.
    """

    __tablename__ = "server_processes"
    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    sequence: Mapped[int]
    error: Mapped[str | None]
    counters: Mapped[Data]
    held: Mapped[Items]
    seen_at: Mapped[float]


class Training(Base):
    """One row: whether training is paused, and why. `ledger.training.lock` locks it."""

    __tablename__ = "training"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    paused: Mapped[bool]
    reason: Mapped[str]
    changed_at: Mapped[float]


class Event(Base):
    """A line of the deployment's log for its operator, in order of `number`."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_job", "job_id", "number"),)
    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    job_id: Mapped[str | None]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[Data]
    created_at: Mapped[Created]


class AuditRecord(Base):
    """A change: who (`actor`) made it, from which address, what it was, and what it changed.

    `action` is a word such as key.created. `subject` is the id of the changed thing.
    """

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    actor: Mapped[str]
    address: Mapped[str]
    action: Mapped[str] = mapped_column(index=True)
    subject: Mapped[str]
    before: Mapped[Data]
    after: Mapped[Data]
    created_at: Mapped[Created]


class Key(Base):
    """An admin key. The ledger has only its sha256.

    A key with `expires_at` None never expires. `rotated_to` is the id of the key that replaces it.
    """

    __tablename__ = "keys"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[Items]
    created_at: Mapped[Created]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    rotated_to: Mapped[str | None]

    @property
    def id(self) -> str:
        """A short name: the beginning of the sha256."""
        return self.sha256[:12]


class Lease(Base):
    """The worker that may train. A new owner raises `epoch`, and commits of an older epoch fail."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    owner: Mapped[str]
    expires_at: Mapped[float]
