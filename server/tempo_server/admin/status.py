"""The status of the whole deployment, the pause of training, and the health routes."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_server.admin import schemas
from tempo_server.admin.route import CallersKey, CurrentContext, KeyRoute, PublicRoute, needs
from tempo_server.admin.schemas import (
    Event,
    Health,
    PauseRequest,
    ResumeRequest,
    ServerProcess,
    Status,
    Training,
)
from tempo_server.context import Context
from tempo_server.keys import check_scope
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.installed import package_versions
from tempo_storage.ledger import models as rows

COUNTERS = ("spooled", "skipped", "opted_out", "dropped", "over_limit")
router = APIRouter(route_class=KeyRoute)
health_router = APIRouter(route_class=PublicRoute)


@router.get("/status", **needs("read"))
def get_status(context: CurrentContext) -> Status:
    """Show the serving version, the training, and the counts of questions."""
    stream = _stream(context)
    with context.sessions() as s:
        pointer = ledger.versions.serving(s)
        paused = ledger.training.get(s).paused
        processes = ledger.versions.processes(s)
        phase, iteration = _phase(s, paused)
        error = ledger.events.last_error(s)
        users = ledger.pool.users_decoding(s, context.default_decoding)
        return Status(
            model=context.base,
            serving_adapter=version_name(pointer.version),
            previous_adapter=version_name(pointer.previous),
            phase=phase,
            iteration=iteration,
            paused=paused,
            questions=schemas.QuestionCounts(**_questions(s, processes), **stream),
            labeled=schemas.LabeledCounts.of(**ledger.labeled.count(s)),
            default_decoding=schemas.Decoding.model_validate(context.default_decoding),
            users_decoding=schemas.Decoding.model_validate(users),
            worker=_worker(s),
            last_error=Event.model_validate(error) if error else None,
            processes=[ServerProcess.model_validate(row) for row in processes],
            versions=package_versions(),
            warnings=list(context.warnings),
        )


@router.post("/training/pause", **needs("train", 408, 413))
def pause(context: CurrentContext, body: PauseRequest | None = None) -> Training:
    """Pause training after the current step; restarts keep it paused."""
    reason = body.reason if body else ""
    with context.sessions.begin() as s:
        return Training.model_validate(ledger.training.set_paused(s, True, reason))


@router.post("/training/resume", **needs("train", 408, 413))
def resume(context: CurrentContext, key: CallersKey, body: ResumeRequest | None = None) -> Training:
    """Resume paused training.

    With `new_tests` reset the number of the gate's tests, also where training is not paused; this
    needs the scope `promote`, too.
    """
    new_tests = body is not None and body.new_tests
    if new_tests:
        check_scope(context, key, "promote")
    with context.sessions.begin() as s:
        training = Training.model_validate(ledger.training.set_paused(s, False))
        if new_tests:
            ledger.gate_tests.reset(s)
            message = "by request: the number of the gate's tests starts again at 0"
            ledger.events.add(s, "gate.reset", message)
    return training.model_copy(update={"new_tests": new_tests})


@health_router.get("/healthz")
async def healthz() -> Health:
    """Answer, and so show that the process runs."""
    return Health(status="ok")


@health_router.get("/readyz")
def readyz(context: CurrentContext, response: Response) -> Health:
    """Tell whether the process has started and the database answers.

    Neither Valkey nor a worker is needed to serve users. The check of the worker fails, too, while
    questions wait for it and none moves.
    """
    stream = _stream(context)
    checks = {"database": True, "valkey": stream["streamed"] is not None}
    try:
        with context.sessions() as s:
            checks["worker"] = _worker(s).alive and not stream["stalled"]
    except SQLAlchemyError:
        response.status_code = 503
        return Health(status="unavailable", checks=checks | {"database": False})
    return Health(status="ok", checks=checks)


def _phase(s: Session, paused: bool) -> tuple[str, int | None]:
    running = ledger.jobs.find(s, statuses=["running"], limit=1)
    progress = running[0].progress if running else {}
    phase = str(progress.get("phase") or "running") if running else "idle"
    return "paused" if paused else phase, progress.get("iteration")


def _questions(s: Session, processes: list[rows.ServerProcess]) -> dict[str, Any]:
    captured, distinct = ledger.pool.count(s)
    counts = {name: sum(p.counters.get(name, 0) for p in processes) for name in COUNTERS}
    unstorable = ledger.dead_letters.count(s)
    return {"captured": captured, "distinct": distinct, "unstorable": unstorable} | counts


def _worker(s: Session) -> schemas.Worker:
    lease = ledger.leases.current(s)
    if lease is None:
        return schemas.Worker()
    return schemas.Worker(alive=True, owner=lease.owner, lease_expires_at=int(lease.expires_at))


def _stream(context: Context) -> dict[str, Any]:
    """Return how many questions are in Valkey, and whether they have stalled there."""
    try:
        backlog = context.stream.backlog()
        return {"streamed": backlog, "stalled": context.stream.has_stalled()}
    except StreamUnavailableError:
        return {"streamed": None, "stalled": False}
