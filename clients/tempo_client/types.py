"""What the server returns, as frozen dataclasses.

The server's own fields lie under `tempo` on the wire and beside the others here. A field that this
version of the SDK does not know is kept in `extra`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_type_hints

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Anything the server returns."""

    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    """Fields that this version of the SDK does not know."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Build from a JSON object; raise TypeError where a field without default is missing."""
        flat = {key: value for key, value in body.items() if key not in ("object", "tempo")}
        inner = body.get("tempo")
        flat |= inner if isinstance(inner, dict) else {}
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if name != "extra"}
        known = kinds.keys() & flat.keys()
        values = {name: _read(kinds[name], flat[name]) for name in known}
        return cls(**values, extra={key: flat[key] for key in flat.keys() - known})


def _read(kind: Any, value: Any) -> Any:
    """Build what a field's annotation names: a resource, perhaps an optional one, or a list."""
    if isinstance(value, list):
        return [_read(kind, item) for item in value]
    for named in (kind, *get_args(kind)):
        if isinstance(named, type) and issubclass(named, Resource) and isinstance(value, dict):
            return named.parse(value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Resource):
    """An uploaded labeled set; a fifth of its examples is held out and decides promotions."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError(Resource):
    """Why a job failed."""

    code: str | None = None
    message: str = ""
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Resource):
    """A training job: `mode` is `recalibrate` or `round`."""

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

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Resource):
    """One line of a job's story."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Resource):
    """An immutable, versioned adapter: candidate, serving, retired, rejected or corrupt."""

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
    """What it came of: checkpoint, labeled files, held-out set, settings, code, metrics."""
    question_ids: list[str] = field(default_factory=list)
    """Of the questions that it learned from; empty in lists."""
    unacknowledged: list[str] = field(default_factory=list)
    """After promote and rollback: API processes that did not answer with it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(Resource):
    """Which adapters learned from questions, and how many questions were erased."""

    adapters: list[str] = field(default_factory=list)
    erased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Resource):
    """An admin key; without scopes it only reads."""

    id: str
    name: str
    scopes: list[str] = field(default_factory=list)
    created_at: int = 0
    key: str = field(default="", repr=False)
    """The secret, in what `create` returns; empty ever after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(Resource):
    """Whether training is paused, and why."""

    paused: bool
    reason: str = ""
    changed_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionCounts(Resource):
    """What became of the questions that users asked."""

    captured: int = 0
    distinct: int = 0
    streamed: int | None = None
    """On their way into the ledger; None when Valkey is down."""
    spooled: int = 0
    skipped: int = 0
    opted_out: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledCounts(Resource):
    """Labeled examples by split."""

    train: int = 0
    held_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(Resource):
    """The worker that holds the lease, if one does."""

    alive: bool = False
    owner: str | None = None
    lease_expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess(Resource):
    """One API process, and the version it has acknowledged."""

    id: str
    version: int
    sequence: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Resource):
    """The whole deployment at one moment."""

    model: str
    serving_adapter: str
    previous_adapter: str | None = None
    phase: str = "idle"
    iteration: int | None = None
    paused: bool = False
    questions: QuestionCounts = field(default_factory=QuestionCounts)
    labeled: LabeledCounts = field(default_factory=LabeledCounts)
    worker: Worker = field(default_factory=Worker)
    last_error: Event | None = None
    processes: list[ServerProcess] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    """Flags of vLLM that make it serve badly."""
