"""The route that lists the audit. There is none that changes it."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field

from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import Json, Page, Resource, Seconds, number_of
from tempo_storage import ledger

PREFIX = "audit-"
AuditId = Annotated[str, BeforeValidator(lambda number: f"{PREFIX}{number}")]

router = APIRouter(route_class=KeyRoute)


class AuditRecord(Resource):
    """A change: who made it, from which address, what it was, and what it changed."""

    object: Literal["audit_record"] = "audit_record"
    id: AuditId = Field(validation_alias="number")
    created_at: Seconds
    actor: str
    address: str
    action: str
    subject: str
    before: Json
    after: Json


@router.get("/audit", **needs("keys"))
def list_audit(context: CurrentContext, paging: PageQuery) -> Page[AuditRecord]:
    """List the changes, newest first."""
    before = None if paging.after is None else number_of(paging.after, PREFIX)
    with context.sessions() as s:
        rows = ledger.audit.find(s, before=before, limit=paging.limit + 1)
    return paging.cut([AuditRecord.model_validate(row) for row in rows])
