"""Users' questions: the versions that learned from one; the tenants, to admit or to erase."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from tempo_server.admin import erasure
from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import Learned, Page, QuestionRequest, Tenant
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.tenants import ANONYMOUS

router = APIRouter(route_class=KeyRoute)
TENANT = f"^([0-9a-f]{{16}}|{ANONYMOUS})$"


@router.post("/questions/learned", **needs("questions", 408, 413))
def learned_from(context: CurrentContext, body: QuestionRequest) -> Learned:
    """List the versions that learned from a question.

    The question is in the body, because access logs keep URLs.
    """
    with context.sessions() as s:
        versions = ledger.learned.versions_from(s, body.question)
    return Learned(adapters=[version_name(version) for version in versions])


@router.get("/questions/tenants", **needs("read", 404))
def list_tenants(context: CurrentContext, paging: PageQuery) -> Page[Tenant]:
    """List the tenants that have questions in the ledger, the largest first."""
    with context.sessions() as s:
        return paging.page([Tenant.model_validate(row) for row in ledger.tenants.find(s)])


@router.post("/questions/tenants/{tenant}/admit", **needs("train", 404))
def admit(context: CurrentContext, tenant: Annotated[str, Path(pattern=TENANT)]) -> Tenant:
    """End the quarantine of a tenant, so that training learns from its questions."""
    with context.sessions.begin() as s:
        return Tenant.model_validate(ledger.tenants.admit(s, _stored(tenant)))


@router.delete("/questions", **needs("questions"))
def erase(context: CurrentContext, tenant: Annotated[str, Query(pattern=TENANT)]) -> Learned:
    """Erase a tenant's questions, and list the versions that learned from them.

    The questions are erased on the servers' disks, in Valkey and in the ledger. The answer says
    where something remains. If a version that learned from them serves, `rollback_to` is a version
    that did not.
    """
    erased = erasure.erase(context, _stored(tenant))
    with context.sessions() as s:
        target = ledger.versions.rollback_from(s, erased.versions)
    return Learned(
        adapters=[version_name(version) for version in erased.versions],
        erased=erased.questions,
        remains=erased.remains,
        rollback_to=None if target is None else version_name(target),
    )


def _stored(tenant: str) -> str:
    """Return the id of a tenant in the ledger."""
    return "" if tenant == ANONYMOUS else tenant
