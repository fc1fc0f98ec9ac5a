"""Bodies of the admin API: OpenAI's form of files and jobs, with our own fields below `tempo`."""

import re
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tempo_storage.adapters import BASE_NAME, version_name
from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.split import missing_labels, smallest_gain
from tempo_storage.ledger import models
from tempo_storage.ledger.tenants import ANONYMOUS

Item = TypeVar("Item")
Json = dict[str, Any]
MAX_STEPS = 100_000  # iterations of a job
MAX_DIGITS = 18  # a number with more is too large for the database
# JSON can carry NUL and half a surrogate pair, but a database cannot: the pattern refuses both.
NO_NUL = r"^[^\x00]*$"
Text = Annotated[str, Field(max_length=1000, pattern=NO_NUL)]
Seconds = Annotated[int, BeforeValidator(int)]
Version = Annotated[str, BeforeValidator(version_name)]


class Schema(BaseModel):
    """A body, with a name of its own in the OpenAPI document.

    vLLM's schemas are in the same document. FastAPI renames two schemas of one name, both ours and
    vLLM's.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__qualname__ = f"Tempo{cls.__name__}"  # pydantic takes the name from here


class Error(Schema):
    """An error in OpenAI's form; `param` is the field of the request, if one is at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(Schema):
    """The body of each answer with a status of 400 or more."""

    error: Error


class Page(Schema, Generic[Item]):
    """A part of a list; to get the next part, send the last item's id as `after`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class Row(Schema):
    """A row of the ledger, or a part of one."""

    model_config = ConfigDict(from_attributes=True)


class Resource(Row):
    """A row that lists can contain."""

    id: str


class LabeledCounts(Schema):
    """Counts of all labeled examples by split, and the use of the held-out ones.

    `missing` is the number of labels to add before a version is promoted by itself.
    `smallest_gain` is the gain of accuracy, 0 to 1, that the gate proves in about four of five
    cases by asking the held-out questions.
    """

    train: int
    held_out: int
    missing: int
    smallest_gain: float

    @classmethod
    def of(cls, train: int, held_out: int) -> Self:
        """Return the counts with what follows from them."""
        return cls(
            train=train,
            held_out=held_out,
            missing=missing_labels(train, held_out),
            smallest_gain=smallest_gain(held_out),
        )


class FileDetails(Schema):
    """The counts of a file's examples, and the warnings about its lines.

    `verifiers` has for each verifier the number of questions, and three of them as examples.
    `labeled` has the counts of all examples after this upload; only the answer to it has them.
    """

    examples: int
    held_out: int
    duplicates: int
    warnings: list[Json]
    verifiers: list[Json] = []
    labeled: LabeledCounts | None = None


class File(Resource):
    """An uploaded file of labeled questions."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: Seconds
    filename: str
    purpose: Literal["fine-tune"] = "fine-tune"
    status: Literal["processed"] = "processed"
    tempo: FileDetails = Field(validation_alias="summary")


class Body(Schema):
    """A request's body; the server refuses a field that it does not know."""

    model_config = ConfigDict(extra="forbid")


class Upload(Body):
    """A labeled file to store; a dry run checks it and stores nothing."""

    file: UploadFile
    purpose: Literal["fine-tune"] = "fine-tune"
    dry_run: bool = False


class JobOptions(Body):
    """The training to do.

    `recalibrate` trains only the critic (`TEMPO_WARM_UP_STEPS` steps); `round` runs iterations,
    then the gate.
    """

    mode: Literal["recalibrate", "round"] = "round"
    max_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    auto_promote: bool = True


class JobRequest(Body):
    """A job to create, with the fields that OpenAI's clients send.

    `training_file` must exist, but decides nothing: a job learns from all labeled files.
    """

    model: Text | None = None
    training_file: Text | None = None
    tempo: JobOptions = JobOptions()


class JobError(Schema):
    """The reason why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobDetails(Row):
    """A job's progress and its result.

    `ignored` names the parameters of the request that decide nothing.
    """

    mode: str
    settings: Json
    progress: Json
    result: Json
    started_at: Seconds | None
    ignored: list[str] = []


class Job(Resource):
    """A training job; OpenAI's fields that have no meaning here are null or empty."""

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
    def of(cls, row: models.Job, *, model: str, adapter: str | None) -> Self:
        """Return a job from its row.

        `model` is the name under which vLLM serves the base, `adapter` that of the candidate that
        the job made.
        """
        training_file = row.settings.get("training_file")
        details = JobDetails.model_validate(row)
        details.ignored = ["training_file"] if training_file else []
        return cls(
            id=row.id,
            status=row.status,
            created_at=int(row.created_at),
            finished_at=None if row.finished_at is None else int(row.finished_at),
            model=model,
            fine_tuned_model=adapter,
            training_file=training_file,
            error=JobError(code="job_failed", message=row.error) if row.error else None,
            tempo=details,
        )


CHECKPOINT_PREFIX = "ftckpt-"


class Checkpoint(Resource):
    """A committed iteration of a job, with its metrics; `step_number` 0 is the warm-up.

    `fine_tuned_model_checkpoint` is the name of the version if the job published one there. It is
    otherwise the name of a checkpoint from which training can go on, and which vLLM cannot serve.
    """

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: Json
    step_number: int

    @classmethod
    def of(cls, row: models.Iteration, version: models.Adapter | None) -> Self:
        """Return a checkpoint from its row; `version` is the one that its job published."""
        name = row.checkpoint
        if version is not None and version.checkpoint == row.checkpoint:
            name = version_name(version.version)
        return cls(
            id=f"{CHECKPOINT_PREFIX}{row.number}",
            created_at=int(row.created_at),
            fine_tuned_model_checkpoint=name,
            fine_tuning_job_id=row.job_id,
            metrics=row.metrics | {"step": row.position},
            step_number=row.position,
        )


EVENT_PREFIX = "ftevent-"
EventId = Annotated[str, BeforeValidator(lambda number: f"{EVENT_PREFIX}{number}")]


def number_of(item_id: str, prefix: str) -> int:
    """Return the number of an id with a prefix; raise InvalidInputError for another id."""
    number = item_id.removeprefix(prefix)
    if not re.fullmatch(f"[0-9]{{1,{MAX_DIGITS}}}", number):
        raise InvalidInputError(f"after: {item_id!r} is no id of this list; give the last one's")
    return int(number)


class Event(Resource):
    """A message about a job, or about the deployment."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: EventId = Field(validation_alias="number")
    created_at: Seconds
    level: str
    type: str
    message: str
    data: Json


class PromoteRequest(Body):
    """A promotion; it fails with 409 if another version than `expected_current` serves."""

    expected_current: Text | None = None
    force: bool = False
    reason: Text = ""


class RollbackRequest(Body):
    """A rollback to a version, to `base`, or by default to the version that served before."""

    to: Text | None = None
    reason: Text = ""


class Adapter(Resource):
    """A version. `unacknowledged` has the ids of the API processes that do not answer with it yet.

    Lists leave out `question_ids`, the ids of the questions that it learned from. The defaults are
    those of the base, version 0, which was not trained.
    """

    object: Literal["adapter"] = "adapter"
    id: Version = Field(validation_alias="version")
    version: int
    status: str
    created_at: Seconds = 0
    parent: Version = BASE_NAME
    sha256: str = ""
    bytes: int = 0
    created_by_job: str = Field(default="", validation_alias="job_id")
    report: Json = {}
    lineage: Json = {}
    question_ids: list[str] = []
    unacknowledged: list[str] = []


class QuestionRequest(Body):
    """A question's id, its content hash or its text."""

    question: Annotated[str, Field(min_length=1, max_length=32768, pattern=NO_NUL)]


class Model(Resource):
    """A version in the form of OpenAI's models."""

    object: Literal["model"] = "model"
    id: Version = Field(validation_alias="version")
    created: Seconds = Field(default=0, validation_alias="created_at")
    owned_by: Literal["vllm-tempo"] = "vllm-tempo"
    parent: Version = BASE_NAME


class Deletion(Schema):
    """The answer to a deletion.

    For a file and a label, `examples` is the number of labeled questions that went with it, and
    `adapters` are the versions that learned from them.
    """

    id: str
    object: Literal["model", "file", "label"]
    deleted: bool = True
    examples: int = 0
    adapters: list[str] = []


class Learned(Schema):
    """The adapters that learned from questions, and the number of questions that were erased.

    `remains` has a sentence for each place where erased text may still be. `rollback_to` is a
    version that did not learn from the questions, if one that did serves.
    """

    object: Literal["learned"] = "learned"
    adapters: list[str]
    erased: int = 0
    remains: list[str] = []
    rollback_to: str | None = None


class Tenant(Resource):
    """A tenant, and the number of its questions in the ledger.

    Training does not learn from the questions of a tenant in quarantine. The id is `anonymous`, or
    the first 16 hex digits of a sha256: of `Bearer KEY` for a key that vLLM checks, of the value of
    TEMPO_TENANT_HEADER, or of the client's address.
    """

    object: Literal["tenant"] = "tenant"
    id: Annotated[str, BeforeValidator(lambda tenant: tenant or ANONYMOUS)]
    questions: int
    last_asked_at: Seconds
    quarantined: bool


class PauseRequest(Body):
    """The reason for a pause."""

    reason: Text = ""


class ResumeRequest(Body):
    """With `new_tests` the number of the gate's tests starts again at 0."""

    new_tests: bool = False


class Training(Row):
    """The pause of training: `paused` is true while it lasts; `reason` says why.

    `new_tests` is true in the answer to a request that reset the number of the gate's tests.
    """

    object: Literal["training"] = "training"
    paused: bool
    reason: str
    changed_at: Seconds
    new_tests: bool = False


class QuestionCounts(Schema):
    """Counts of users' questions.

    `captured` and `distinct` are in the ledger, `streamed` in Valkey (null while it does not
    answer). `unstorable` ones are set aside in the ledger. The others are sums over the API
    processes. `stalled` is true if questions wait in Valkey and none has moved for a minute.
    """

    captured: int
    distinct: int
    streamed: int | None
    spooled: int
    skipped: int
    opted_out: int
    dropped: int
    over_limit: int
    unstorable: int
    stalled: bool


class Decoding(Row):
    """The arguments by which tokens are drawn.

    `top_k` 0 means all tokens, and `max_tokens` null means no limit.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int | None


class Worker(Schema):
    """The worker that may train. `alive` is false if there is none."""

    alive: bool = False
    owner: str | None = None
    lease_expires_at: int | None = None


class ServerProcess(Resource):
    """An API process, and the version that it has acknowledged."""

    version: int
    sequence: int
    error: str | None


class Status(Schema):
    """The state of the whole deployment.

    vLLM uses `default_decoding` where a request sets nothing. `users_decoding` has the medians over
    the users' questions, by which the gate judges; without a question it is the default.
    """

    object: Literal["status"] = "status"
    model: str
    serving_adapter: str
    previous_adapter: str
    phase: str
    iteration: int | None
    paused: bool
    questions: QuestionCounts
    labeled: LabeledCounts
    default_decoding: Decoding
    users_decoding: Decoding
    worker: Worker
    last_error: Event | None
    processes: list[ServerProcess]
    versions: dict[str, str]
    warnings: list[str]


class Health(Schema):
    """The answer of the health routes: `checks` tells which parts answer."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, bool] = {}
