"""Users' questions: list the versions that learned from one, and erase a tenant's questions."""

from typing import Annotated

from fastapi import APIRouter, Query

from tempo_server.admin import erasure
from tempo_server.admin.route import READ, CurrentContext, KeyRoute, PageQuery
from tempo_server.admin.schemas import Learned, Page, QuestionRequest, Tenant
from tempo_storage import ledger
from tempo_storage.adapters import version_name

router = APIRouter(route_class=KeyRoute)
WITHOUT_KEY = "without-key"
TenantId = Annotated[str, Query(pattern=f"^([0-9a-f]{{16}}|{WITHOUT_KEY})$")]


@router.post("/questions/learned", openapi_extra=READ)
def learned_from(context: CurrentContext, body: QuestionRequest) -> Learned:
    """List the versions that learned from a question.

    The question is in the body, because access logs keep URLs.
    """
    with context.sessions() as s:
        versions = ledger.learned.versions_from(s, body.question)
    return Learned(adapters=[version_name(version) for version in versions])


@router.get("/questions/tenants")
def list_tenants(context: CurrentContext, paging: PageQuery) -> Page[Tenant]:
    """List the tenants that have questions in the ledger, the largest first."""
    with context.sessions() as s:
        rows = ledger.pool.tenants(s)
    tenants = [
        Tenant(id=tenant or WITHOUT_KEY, questions=number, last_asked_at=int(last))
        for tenant, number, last in rows
    ]
    return paging.page(tenants)


@router.delete("/questions")
def erase(context: CurrentContext, tenant: TenantId) -> Learned:
    """Erase a tenant's questions, and list the versions that learned from them.

    The questions are erased on the servers' disks, in Valkey and in the ledger. The answer says
    where something remains. If a version that learned from them serves, `rollback_to` is a version
    that did not. The tenant is the first 16 hex digits of the sha256 of the Authorization header
    that it sends, or `without-key` for the requests without one.
    """
    erased = erasure.erase(context, "" if tenant == WITHOUT_KEY else tenant)
    with context.sessions() as s:
        target = ledger.versions.rollback_from(s, erased.versions)
    return Learned(
        adapters=[version_name(version) for version in erased.versions],
        erased=erased.questions,
        remains=erased.remains,
        rollback_to=None if target is None else version_name(target),
    )
