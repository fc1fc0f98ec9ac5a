"""Admin keys: which there are, and how one that may do less is made and revoked."""

from fastapi import APIRouter, Request

from tempo_server import keys
from tempo_server.admin.route import PROMOTE, Current, Keyed, Part
from tempo_server.admin.schemas import Key, KeyRequest, Page
from tempo_storage import ledger

router = APIRouter(route_class=Keyed)


@router.post("/keys", openapi_extra=PROMOTE)
def create_key(context: Current, request: Request, body: KeyRequest) -> Key:
    """Make a key; it is in this answer, and nowhere else ever after."""
    creator = keys.bearer(request.headers.get("authorization"))
    row, key = keys.create_key(context, body.name, body.scopes, creator=creator)
    return Key.model_validate(row).model_copy(update={"key": key})


@router.get("/keys")
def list_keys(context: Current, part: Part) -> Page[Key]:
    """List the keys, newest first, without the keys themselves."""
    with context.sessions() as s:
        return part.page([Key.model_validate(row) for row in ledger.keys.find(s)])


@router.delete("/keys/{key_id}", openapi_extra=PROMOTE)
def revoke_key(context: Current, key_id: str) -> Key:
    """Revoke a key; other API processes refuse it from their next poll on."""
    return Key.model_validate(keys.revoke_key(context, key_id))
