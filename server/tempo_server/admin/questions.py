"""Users' questions: which versions learned from one, and how a tenant's are erased."""

from typing import Annotated

from fastapi import APIRouter, Query

from tempo_server.admin.route import Current, Keyed
from tempo_server.admin.schemas import Learned, QuestionRequest
from tempo_storage import ledger
from tempo_storage.adapters import version_name

router = APIRouter(route_class=Keyed)


@router.post("/questions/learned", openapi_extra={"x-scope": ""})
def learned_from(context: Current, body: QuestionRequest) -> Learned:
    """List the versions that learned from a question; a body, since access logs keep URLs."""
    with context.sessions() as s:
        return _learned(ledger.lineage.learned_from(s, body.question))


@router.delete("/questions")
def erase(context: Current, tenant: Annotated[str, Query(pattern="^[0-9a-f]{16}$")]) -> Learned:
    """Erase a tenant's questions, and list the versions that learned from them.

    The tenant is the first 16 hex digits of the sha256 of the Authorization header it sends.
    """
    with context.sessions.begin() as s:
        erased, versions = ledger.lineage.erase(s, tenant)
    return _learned(versions, erased=erased)


def _learned(versions: list[int], *, erased: int = 0) -> Learned:
    return Learned(adapters=[version_name(v) for v in versions], erased=erased)
