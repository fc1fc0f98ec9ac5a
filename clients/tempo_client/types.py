"""The server's answers as frozen dataclasses.

On the wire a resource has the fields of OpenAI's API, and the server's own fields under `tempo`.
Here they stand side by side. Fields that this version of the SDK does not know go into `extra`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_type_hints

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """The base class of everything that the server returns."""

    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    """Fields that this version of the SDK does not know."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Build from a JSON object; raise TypeError where a field without default is missing."""
        flat = {name: value for name, value in body.items() if name not in ("object", "tempo")}
        details = body.get("tempo")
        flat |= details if isinstance(details, dict) else {}
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if name != "extra"}
        names = kinds.keys() & flat.keys()
        values = {name: _parse_field(kinds[name], flat[name]) for name in names}
        return cls(**values, extra={name: flat[name] for name in flat.keys() - names})


def _parse_field(kind: Any, value: Any) -> Any:
    """Build the resource, or the list of resources, that a field's annotation names.

    A value whose annotation names no resource is returned as it is.
    """
    if isinstance(value, list):
        return [_parse_field(kind, item) for item in value]
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, Resource) and isinstance(value, dict):
            return part.parse(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledCounts(Resource):
    """Counts of the labeled examples by split, and the use of the held-out ones."""

    train: int = 0
    held_out: int = 0
    """They train nothing and decide promotions."""
    missing: int = 0
    """The number of labels to add before a version is promoted by itself."""
    smallest_gain: float | None = None
    """The gain of accuracy, 0 to 1, that the gate proves in about four of five cases.

    It follows from `held_out`; None from a server of version 0.1.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Resource):
    """An uploaded labeled file; `held_out` of its examples decide promotions."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str = "fine-tune"
    status: str = "processed"
    examples: int = 0
    held_out: int = 0
    duplicates: int = 0
    warnings: list[Any] = field(default_factory=list)
    verifiers: list[Any] = field(default_factory=list)
    """For each verifier its name, the number of questions, and three of them as `examples`."""
    labeled: LabeledCounts | None = None
    """The counts of all examples after this upload; only the answer to it has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Resource):
    """A labeled question with its accepted answers; `split` is `train` or `held_out`."""

    id: str
    split: str
    messages: list[dict[str, Any]]
    reference_answer: list[Any]
    verifier: str
    metadata: dict[str, Any] = field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """Return the label as a line of a labeled file."""
        names = ("messages", "reference_answer", "verifier", "metadata", "chat_template_kwargs")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts(Resource):
    """By a label's id, for each response whether it is right; None where its verifier failed."""

    verdicts: dict[str, list[bool | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError(Resource):
    """The reason why a job failed."""

    code: str | None = None
    message: str = ""
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Resource):
    """A training job: `mode` is `recalibrate` or `round`.

    `model` is the name under which vLLM serves the base. `status` is `queued`, `running`, `paused`
    (queued while training is paused), `succeeded`, `failed` or `cancelled`.
    """

    id: str
    status: str
    created_at: int
    finished_at: int | None = None
    model: str = ""
    fine_tuned_model: str | None = None
    training_file: str | None = None
    error: JobError | None = None
    mode: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    started_at: int | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    """Parameters of the request that decide nothing."""

    @property
    def is_finished(self) -> bool:
        """True after the job has succeeded, failed or been cancelled."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Resource):
    """A message about a job's progress, or about the whole deployment."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Resource):
    """A committed iteration of a job; `step_number` 0 is the warm-up.

    `fine_tuned_model_checkpoint` is a version's name if the job published one there.
    """

    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, Any] = field(default_factory=dict)
    step_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion(Resource):
    """The answer to a deletion."""

    id: str
    deleted: bool = True
    examples: int = 0
    """Of a file or a label: the number of labeled questions that went with it."""
    adapters: list[str] = field(default_factory=list)
    """Of a file or a label: the versions that learned from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Resource):
    """A version of the adapter; its weights never change.

    `status` is `candidate`, `serving`, `retired`, `rejected` or `corrupt`.
    """

    id: str
    version: int
    status: str
    created_at: int
    parent: str | None = None
    sha256: str = ""
    bytes: int = 0
    created_by_job: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    """Its origin: checkpoint, labeled files, held-out set, settings, code, metrics."""
    question_ids: list[str] = field(default_factory=list)
    """The ids of the questions that it learned from; empty in lists."""
    unacknowledged: list[str] = field(default_factory=list)
    """After promote and rollback: the API processes that do not serve it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(Resource):
    """The adapters that learned from questions, and the number of questions that were erased.

    `remains` has a sentence for each place where erased text may still be. `rollback_to` is a
    version that did not learn from the questions, if one that did serves.
    """

    adapters: list[str] = field(default_factory=list)
    erased: int = 0
    remains: list[str] = field(default_factory=list)
    rollback_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant(Resource):
    """A tenant, and its questions in the ledger.

    `id` is `anonymous`, or the first 16 hex digits of a SHA-256: of `Bearer KEY` for a key that
    vLLM checks, of the value of the header that names tenants, or of the client's address.
    """

    id: str
    questions: int = 0
    last_asked_at: int = 0
    quarantined: bool = False
    """True while training does not learn from its questions, because it is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord(Resource):
    """A change: who (`actor`) made it, from which address, what it was, and what it changed."""

    id: str
    created_at: int
    actor: str
    address: str
    action: str
    subject: str
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Resource):
    """An admin key, which may do what its scopes say."""

    id: str
    name: str
    scopes: list[str] = field(default_factory=list)
    created_at: int = 0
    expires_at: int | None = None
    """None: it never expires."""
    last_used_at: int | None = None
    """Right to a minute; None: nobody has used it."""
    rotated_to: str | None = None
    """The id of the key that replaces it."""
    key: str = field(default="", repr=False)
    """The secret, in the answer to `keys.create`; empty everywhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Resource):
    """The pause of training: `paused` is true during one, and `reason` says why."""

    paused: bool
    reason: str = ""
    changed_at: int = 0
    new_tests: bool = False
    """True in the answer to a request that reset the number of the gate's tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionCounts(Resource):
    """Counts of the questions that users asked, by what happened to them.

    `tempo questions` says what each count means.
    """

    captured: int = 0
    distinct: int = 0
    streamed: int | None = None
    """Questions in Valkey, on the way to the ledger; None when Valkey is down."""
    spooled: int = 0
    skipped: int = 0
    opted_out: int = 0
    dropped: int = 0
    over_limit: int = 0
    unstorable: int = 0
    stalled: bool = False
    """True if questions wait in Valkey and none has moved for a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Resource):
    """The arguments by which tokens are drawn.

    `top_k` 0 means all tokens, and `max_tokens` None means no limit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Resource):
    """The worker that holds the lease; `owner` is None when no worker does."""

    alive: bool = False
    owner: str | None = None
    lease_expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess(Resource):
    """An API process, and the version that it has acknowledged."""

    id: str
    version: int
    sequence: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Resource):
    """The state of the whole deployment at one moment."""

    model: str
    serving_adapter: str
    previous_adapter: str | None = None
    phase: str = "idle"
    iteration: int | None = None
    paused: bool = False
    questions: QuestionCounts = field(default_factory=QuestionCounts)
    labeled: LabeledCounts = field(default_factory=LabeledCounts)
    default_decoding: Decoding = field(default_factory=Decoding)
    """The sampling that vLLM uses where a request sets none."""
    users_decoding: Decoding | None = None
    """The medians over the users' last 1,000 distinct questions, by which the gate judges.

    It is the default without a question, and None from a server of version 0.1.
    """
    worker: Worker = field(default_factory=Worker)
    last_error: Event | None = None
    processes: list[ServerProcess] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    """Flags of vLLM that make it serve badly."""
