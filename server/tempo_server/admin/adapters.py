"""Adapter versions: list and show them, promote one, roll back."""

import time
from typing import Any

from fastapi import APIRouter

from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import Adapter, Page, PromoteRequest, RollbackRequest
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name, version_of
from tempo_storage.errors import ConflictError
from tempo_storage.ledger.models import Serving

FOLLOW_SECONDS = 5.0
POLL_SECONDS = 0.1

router = APIRouter(route_class=KeyRoute)


@router.get("/adapters", **needs("read"))
def list_adapters(context: CurrentContext, paging: PageQuery) -> Page[Adapter]:
    """List the versions, newest first; the base is the last one."""
    below = None if paging.after is None else version_of(paging.after)
    with context.sessions() as s:
        rows = ledger.versions.adapters(s, below=below, limit=paging.limit + 1)
    versions = [Adapter.model_validate(row) for row in rows]
    return paging.cut(versions if below == BASE else [*versions, _base(context)])


@router.get("/adapters/{adapter_id}", **needs("read", 404))
def get_adapter(context: CurrentContext, adapter_id: str) -> Adapter:
    """Show one version, with the ids of the questions that it learned from."""
    version = version_of(adapter_id)
    if version == BASE:
        return _base(context)
    with context.sessions() as s:
        row = ledger.versions.adapter(s, version)
        question_ids = ledger.learned.question_ids(s, row.checkpoint)
        return Adapter.model_validate(row).model_copy(update={"question_ids": question_ids})


@router.post("/adapters/{adapter_id}/promote", **needs("promote", 404, 408, 409, 413, 422))
def promote(
    context: CurrentContext, adapter_id: str, body: PromoteRequest | None = None
) -> Adapter:
    """Make a version serve; wait up to five seconds until all API processes answer with it.

    An operator has judged by other means than the held-out questions. So a promotion by hand resets
    the number of the gate's tests.
    """
    body = body or PromoteRequest()
    expected = None if body.expected_current is None else version_of(body.expected_current)
    return _promote(
        context,
        version_of(adapter_id),
        expected_current=expected,
        reason=body.reason,
        force=body.force,
        resets_tests=True,
    )


@router.post("/adapters/rollback", **needs("promote", 404, 408, 409, 413, 422))
def roll_back(context: CurrentContext, body: RollbackRequest | None = None) -> Adapter:
    """Return to the version that `to` names, or to the one that served before."""
    body = body or RollbackRequest()
    if body.to is None:
        with context.sessions() as s:
            version = ledger.versions.version_before(s)
    else:
        version = BASE if body.to == "base" else version_of(body.to)
    action = ledger.versions.ROLLED_BACK
    return _promote(context, version, reason=body.reason or "rollback", action=action)


def _promote(
    context: Context, version: int, *, resets_tests: bool = False, **options: Any
) -> Adapter:
    """Promote a version whose files are sound, and wait for the processes.

    With `resets_tests` the number of the gate's tests starts again at 0.
    """
    if version != BASE:  # before the pointer moves
        context.verify(version_name(version))
    with context.sessions.begin() as s:
        pointer = ledger.versions.promote(s, version, **options)
        if resets_tests:
            ledger.gate_tests.reset(s)
    return _await_processes(context, pointer)


def _await_processes(context: Context, pointer: Serving) -> Adapter:
    """Return the pointer's version when all processes answer with it, or after FOLLOW_SECONDS."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while (behind := _processes_behind(context, pointer)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    adapter = get_adapter(context, version_name(pointer.version))
    if adapter.status == "corrupt":
        raise ConflictError(f"{adapter.id} was refused: {adapter.report['corrupt']}")
    return adapter.model_copy(update={"unacknowledged": behind})


def _processes_behind(context: Context, pointer: Serving) -> list[str]:
    """Return the ids of the processes that do not answer with the pointer's version yet."""
    with context.sessions() as s:
        if ledger.versions.serving(s).sequence != pointer.sequence:
            return []  # the pointer has moved on
        return [process.id for process in ledger.versions.processes_behind(s)]


def _base(context: Context) -> Adapter:
    """Return version 0; the ledger has no row of it."""
    with context.sessions() as s:
        serves = ledger.versions.serving(s).version == BASE
    return Adapter.model_validate({"version": BASE, "status": "serving" if serves else "retired"})
