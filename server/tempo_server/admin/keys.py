"""The routes for admin keys: list, create and revoke them."""

from fastapi import APIRouter, Request

from tempo_server import keys
from tempo_server.admin.route import PROMOTE, CurrentContext, KeyRoute, PageQuery
from tempo_server.admin.schemas import Key, KeyRequest, Page
from tempo_storage import ledger

router = APIRouter(route_class=KeyRoute)


@router.post("/keys", openapi_extra=PROMOTE)
def create_key(context: CurrentContext, request: Request, body: KeyRequest) -> Key:
    """Create a key; only this answer contains it."""
    creator = keys.bearer(request.headers.get("authorization"))
    row, key = keys.create_key(context, body.name, body.scopes, creator=creator)
    return Key.model_validate(row).model_copy(update={"key": key})


@router.get("/keys")
def list_keys(context: CurrentContext, paging: PageQuery) -> Page[Key]:
    """List the keys' names and scopes, newest first, without the keys themselves."""
    with context.sessions() as s:
        return paging.page([Key.model_validate(row) for row in ledger.keys.find(s)])


@router.delete("/keys/{key_id}", openapi_extra=PROMOTE)
def revoke_key(context: CurrentContext, key_id: str) -> Key:
    """Revoke a key; other API processes refuse it from their next poll on."""
    return Key.model_validate(keys.revoke_key(context, key_id))
