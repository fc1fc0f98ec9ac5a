"""The deployment at one glance, the pause switch, and the probes of an orchestrator."""

import time

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_server.admin import schemas
from tempo_server.admin.route import Current, Keyed, Open
from tempo_server.admin.schemas import Event, Health, PauseRequest, ServerProcess, Status, Training
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.installed import installed
from tempo_storage.ledger import models as rows
from tempo_storage.ledger.leases import TRAINER

COUNTED = ("spooled", "skipped", "opted_out", "dropped")
router = APIRouter(route_class=Keyed)
probes = APIRouter(route_class=Open)


@router.get("/status")
def get_status(context: Current) -> Status:
    """Say what serves, what trains, and what became of the questions."""
    streamed = _streamed(context)
    with context.sessions() as s:
        pointer, paused = ledger.versions.serving(s), ledger.training.get(s).paused
        processes = ledger.versions.processes(s)
        phase, iteration = _phase(s, paused)
        error = ledger.events.last_error(s)
        return Status(
            model=context.base,
            serving_adapter=version_name(pointer.version),
            previous_adapter=version_name(pointer.previous),
            phase=phase,
            iteration=iteration,
            paused=paused,
            questions=schemas.QuestionCounts(streamed=streamed, **_questions(s, processes)),
            labeled=schemas.LabeledCounts(**ledger.labeled.count(s)),
            worker=_worker(s),
            last_error=Event.model_validate(error) if error else None,
            processes=[ServerProcess.model_validate(row) for row in processes],
            versions=installed(),
            warnings=list(context.warnings),
        )


@router.post("/training/pause")
def pause(context: Current, body: PauseRequest | None = None) -> Training:
    """Stop training after the step under way; survives restarts."""
    with context.sessions.begin() as s:
        return Training.model_validate(
            ledger.training.set_paused(s, True, body.reason if body else "")
        )


@router.post("/training/resume")
def resume(context: Current) -> Training:
    """Let training go on."""
    with context.sessions.begin() as s:
        return Training.model_validate(ledger.training.set_paused(s, False))


@probes.get("/healthz")
async def healthz() -> Health:
    """Say that the process answers."""
    return Health(status="ok")


@probes.get("/readyz")
def readyz(context: Current, response: Response) -> Health:
    """Say whether users can be served; without Valkey or a worker they can."""
    checks = {"database": True, "valkey": _streamed(context) is not None}
    try:
        with context.sessions() as s:
            checks["worker"] = _worker(s).alive
    except SQLAlchemyError:
        response.status_code = 503
        return Health(status="unavailable", checks=checks | {"database": False})
    return Health(status="ok", checks=checks)


def _phase(s: Session, paused: bool) -> tuple[str, int | None]:
    running = ledger.jobs.find(s, statuses=["running"], limit=1)
    progress = running[0].progress if running else {}
    phase = str(progress.get("phase") or "running") if running else "idle"
    return "paused" if paused else phase, progress.get("iteration")


def _questions(s: Session, processes: list[rows.ServerProcess]) -> dict[str, int]:
    captured, distinct = ledger.questions.count(s)
    counted = {name: sum(p.counters.get(name, 0) for p in processes) for name in COUNTED}
    return {"captured": captured, "distinct": distinct} | counted


def _worker(s: Session) -> schemas.Worker:
    lease = ledger.leases.get(s, TRAINER)
    if lease is None or lease.expires_at <= time.time():
        return schemas.Worker()
    return schemas.Worker(alive=True, owner=lease.owner, lease_expires_at=int(lease.expires_at))


def _streamed(context: Context) -> int | None:
    try:
        return context.stream.backlog()
    except StreamUnavailableError:
        return None
