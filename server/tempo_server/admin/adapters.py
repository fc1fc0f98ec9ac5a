"""Adapter versions: which there are, which one serves, and how that is changed by hand."""

import time

from fastapi import APIRouter

from tempo_server.admin.route import PROMOTE, Current, Keyed, Part
from tempo_server.admin.schemas import Adapter, Page, PromoteRequest, RollbackRequest
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name, version_of
from tempo_storage.errors import ConflictError, CorruptAdapterError
from tempo_storage.ledger import models as rows

FOLLOW_SECONDS = 5.0
POLL_SECONDS = 0.1

router = APIRouter(route_class=Keyed)


@router.get("/adapters")
def list_adapters(context: Current, part: Part) -> Page[Adapter]:
    """List the versions, newest first; the last is the base."""
    with context.sessions() as s:
        found = [Adapter.model_validate(row) for row in ledger.versions.adapters(s)]
    return part.page([*found, _base(context)])


@router.get("/adapters/{adapter_id}")
def get_adapter(context: Current, adapter_id: str) -> Adapter:
    """Show one version, with the ids of the questions that it learned from."""
    version = version_of(adapter_id)
    if version == BASE:
        return _base(context)
    with context.sessions() as s:
        row = ledger.versions.adapter(s, version)
        learned = ledger.lineage.question_ids(s, row.checkpoint)
        return Adapter.model_validate(row).model_copy(update={"question_ids": learned})


@router.post("/adapters/{adapter_id}/promote", openapi_extra=PROMOTE)
def promote(context: Current, adapter_id: str, body: PromoteRequest | None = None) -> Adapter:
    """Make a version serve, and wait a few seconds until every API process answers with it."""
    body = body or PromoteRequest()
    version = version_of(adapter_id)
    expected = None if body.expected_current is None else version_of(body.expected_current)
    _verify(context, version)
    with context.sessions.begin() as s:
        pointer = ledger.versions.promote(
            s, version, expected_current=expected, reason=body.reason, force=body.force
        )
    return _followed(context, pointer)


@router.post("/adapters/rollback", openapi_extra=PROMOTE)
def roll_back(context: Current, body: RollbackRequest | None = None) -> Adapter:
    """Return to a version, or to the one that served before."""
    body = body or RollbackRequest()
    target = None if body.to is None else BASE if body.to == "base" else version_of(body.to)
    with context.sessions() as s:
        version = ledger.versions.version_before(s) if target is None else target
    _verify(context, version)
    with context.sessions.begin() as s:
        pointer = ledger.versions.roll_back(s, to=version, reason=body.reason)
    return _followed(context, pointer)


def _verify(context: Context, version: int) -> None:
    """Refuse files that no process could load before the pointer moves to them."""
    if version == BASE:
        return
    with context.sessions() as s:
        ledger.versions.adapter(s, version)
    name, rank = version_name(version), context.settings.lora_rank
    try:
        context.store.verify(name, base=context.base, rank=rank)
    except CorruptAdapterError as error:
        with context.sessions.begin() as s:
            ledger.versions.mark_corrupt(s, version, str(error))
        raise


def _followed(context: Context, pointer: rows.Serving) -> Adapter:
    deadline = time.monotonic() + FOLLOW_SECONDS
    while (behind := _processes_behind(context, pointer)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    shown = get_adapter(context, version_name(pointer.version))
    if shown.status == "corrupt":
        raise ConflictError(f"{shown.id} was refused: {shown.report['corrupt']}")
    return shown.model_copy(update={"unacknowledged": behind})


def _processes_behind(context: Context, pointer: rows.Serving) -> list[str]:
    """Return the ids of the processes that do not answer with the pointer's version yet."""
    with context.sessions() as s:
        if ledger.versions.serving(s).sequence != pointer.sequence:
            return []  # the pointer has moved on
        return [process.id for process in ledger.versions.processes_behind(s)]


def _base(context: Context) -> Adapter:
    """Return version 0, which is always there and has no row."""
    with context.sessions() as s:
        serves = ledger.versions.serving(s).version == BASE
    row = rows.Adapter(version=BASE, parent=BASE, job_id="", sha256="", bytes=0)
    row.status, row.created_at = "serving" if serves else "retired", 0.0
    row.lineage, row.report = {}, {}
    return Adapter.model_validate(row)
