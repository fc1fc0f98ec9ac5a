"""Bodies of the admin API: OpenAI's shapes of files and jobs, with our own fields below `tempo`."""

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tempo_server.keys import Scope
from tempo_storage.adapters import version_name
from tempo_storage.ledger import models

Item = TypeVar("Item")
Json = dict[str, Any]
# JSON can carry NUL and half a surrogate pair, a database cannot: the pattern refuses both.
Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Seconds = Annotated[int, BeforeValidator(int)]
Version = Annotated[str, BeforeValidator(version_name)]


class Page(BaseModel, Generic[Item]):
    """A part of a list; the next begins `after` the id of its last item."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class Row(BaseModel):
    """What is shown of a row of the ledger, or of a part of it."""

    model_config = ConfigDict(from_attributes=True)


class Resource(Row):
    """What can be listed."""

    id: str


class FileDetails(BaseModel):
    """What an uploaded file brought."""

    examples: int
    held_out: int
    duplicates: int
    warnings: list[Json]


class File(Resource):
    """An uploaded labeled file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: Seconds
    filename: str
    purpose: Literal["fine-tune"] = "fine-tune"
    status: Literal["processed"] = "processed"
    tempo: FileDetails = Field(validation_alias="summary")


class Body(BaseModel):
    """A request's body: a field that we do not honour is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class JobOptions(Body):
    """What to train: recalibrate is one E-step, a round is iterations and then the gate."""

    mode: Literal["recalibrate", "round"] = "round"
    max_steps: int | None = Field(default=None, ge=1)
    auto_promote: bool = True


class JobRequest(Body):
    """OpenAI's body, as far as it means something here."""

    model: Text | None = None
    training_file: Text | None = None
    tempo: JobOptions = JobOptions()


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobDetails(Row):
    """How far a job is and what came of it."""

    mode: str
    settings: Json
    progress: Json
    result: Json
    started_at: Seconds | None


class Job(Resource):
    """A training job; what OpenAI's shape has and we do not is null or empty."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    status: str
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    training_file: str | None
    error: JobError | None
    hyperparameters: Json = {}
    organization_id: str = ""
    result_files: list[str] = []
    seed: int = 0
    trained_tokens: int | None = None
    validation_file: str | None = None
    tempo: JobDetails

    @classmethod
    def of(cls, row: models.Job, *, base: str, adapter: str | None) -> Self:
        """Show a row; `adapter` is the candidate that came of it."""
        return cls(
            id=row.id,
            status=row.status,
            created_at=int(row.created_at),
            finished_at=None if row.finished_at is None else int(row.finished_at),
            model=base,
            fine_tuned_model=adapter,
            training_file=row.settings.get("training_file"),
            error=JobError(code="job_failed", message=row.error) if row.error else None,
            tempo=JobDetails.model_validate(row),
        )


EVENT_PREFIX = "ftevent-"
EventId = Annotated[str, BeforeValidator(lambda number: f"{EVENT_PREFIX}{number}")]


class Event(Resource):
    """One line of a story."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: EventId = Field(validation_alias="number")
    created_at: Seconds
    level: str
    type: str
    message: str
    data: Json


class PromoteRequest(Body):
    """Make an adapter serve, if `expected_current` still does."""

    expected_current: Text | None = None
    force: bool = False
    reason: Text = ""


class RollbackRequest(Body):
    """Return to an adapter, or to the one that served before."""

    to: Text | None = None
    reason: Text = ""


class Adapter(Resource):
    """A version; `unacknowledged` names the API processes that do not answer with it yet.

    `question_ids`, of those that it learned from, are left out of lists.
    """

    object: Literal["adapter"] = "adapter"
    id: Version = Field(validation_alias="version")
    version: int
    status: str
    created_at: Seconds
    parent: Version
    sha256: str
    bytes: int
    created_by_job: str = Field(validation_alias="job_id")
    report: Json
    lineage: Json
    question_ids: list[str] = []
    unacknowledged: list[str] = []


class QuestionRequest(Body):
    """A question's id, its content hash or its text."""

    question: Annotated[str, Field(min_length=1, max_length=32768)]


class Learned(BaseModel):
    """Which adapters learned from questions, and how many questions were erased."""

    object: Literal["learned"] = "learned"
    adapters: list[str]
    erased: int = 0


class KeyRequest(Body):
    """A key to make; without scopes it only reads."""

    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    scopes: list[Scope] = []


class Key(Resource):
    """An admin key; `key` is the secret, there in the answer to its creation alone."""

    object: Literal["key"] = "key"
    name: str
    scopes: list[str]
    created_at: Seconds
    key: str = ""


class PauseRequest(Body):
    """Why training is paused."""

    reason: Text = ""


class Training(Row):
    """Whether training is paused, and why."""

    object: Literal["training"] = "training"
    paused: bool
    reason: str
    changed_at: Seconds


class QuestionCounts(BaseModel):
    """What became of the questions: in the ledger, in the stream, and as each process counts."""

    captured: int
    distinct: int
    streamed: int | None
    spooled: int
    skipped: int
    opted_out: int
    dropped: int


class LabeledCounts(BaseModel):
    """Labeled examples by split."""

    train: int
    held_out: int


class Worker(BaseModel):
    """The worker that holds the lease, if one does."""

    alive: bool = False
    owner: str | None = None
    lease_expires_at: int | None = None


class ServerProcess(Resource):
    """One API process, and the version it has acknowledged."""

    version: int
    sequence: int
    error: str | None


class Status(BaseModel):
    """The whole deployment at one moment."""

    object: Literal["status"] = "status"
    model: str
    serving_adapter: str
    previous_adapter: str
    phase: str
    iteration: int | None
    paused: bool
    questions: QuestionCounts
    labeled: LabeledCounts
    worker: Worker
    last_error: Event | None
    processes: list[ServerProcess]
    versions: dict[str, str]
    warnings: list[str]


class Health(BaseModel):
    """Whether the server can do its work."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, bool] = {}
