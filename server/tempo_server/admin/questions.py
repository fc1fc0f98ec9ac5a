"""Users' questions: list the versions that learned from one, and erase a tenant's questions."""

from typing import Annotated

from fastapi import APIRouter, Query

from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import Learned, Page, QuestionRequest, Tenant
from tempo_storage import ledger
from tempo_storage.adapters import version_name

router = APIRouter(route_class=KeyRoute)
WITHOUT_KEY = "without-key"
TenantId = Annotated[str, Query(pattern=f"^([0-9a-f]{{16}}|{WITHOUT_KEY})$")]


@router.post("/questions/learned", **needs("questions", 413))
def learned_from(context: CurrentContext, body: QuestionRequest) -> Learned:
    """List the versions that learned from a question.

    The question is in the body, because access logs keep URLs.
    """
    with context.sessions() as s:
        return _learned(ledger.learned.versions_from(s, body.question))


@router.get("/questions/tenants", **needs("questions", 404))
def list_tenants(context: CurrentContext, paging: PageQuery) -> Page[Tenant]:
    """List the tenants that have questions in the ledger, the largest first."""
    with context.sessions() as s:
        rows = ledger.pool.tenants(s)
    tenants = [
        Tenant(id=tenant or WITHOUT_KEY, questions=number, last_asked_at=int(last))
        for tenant, number, last in rows
    ]
    return paging.page(tenants)


@router.delete("/questions", **needs("questions"))
def erase(context: CurrentContext, tenant: TenantId) -> Learned:
    """Erase a tenant's questions, and list the versions that learned from them.

    The tenant is the first 16 hex digits of the sha256 of the Authorization header that it sends,
    or `without-key` for the requests without one.
    """
    with context.sessions.begin() as s:
        erased, versions = ledger.learned.erase(s, "" if tenant == WITHOUT_KEY else tenant)
    return _learned(versions, erased=erased)


def _learned(versions: list[int], *, erased: int = 0) -> Learned:
    return Learned(adapters=[version_name(version) for version in versions], erased=erased)
