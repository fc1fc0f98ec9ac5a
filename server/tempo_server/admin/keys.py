"""The routes for admin keys: list, create, rotate and revoke them.

A key can give another one neither a scope that it lacks nor a longer life than its own.
"""

import math
import time
from collections.abc import Collection
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from tempo_server.admin.route import CallersKey, CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import Body, Page, Resource, Seconds
from tempo_server.context import Context
from tempo_server.keys import SCOPES, Scope, check_scope, digest, digest_of_file, new_key, read_keys
from tempo_storage import ledger
from tempo_storage.errors import ConflictError
from tempo_storage.ledger import models as rows

MAX_KEYS = 100
DAY_SECONDS = 24 * 3600
FORGOTTEN_SECONDS = 30.0 * DAY_SECONDS  # after its end a key leaves the list
MIN_LIFE_SECONDS = 60
MAX_LIFE_SECONDS = 3650 * DAY_SECONDS
MAX_GRACE_SECONDS = 30 * DAY_SECONDS

Life = Annotated[int, Field(ge=MIN_LIFE_SECONDS, le=MAX_LIFE_SECONDS)]

router = APIRouter(route_class=KeyRoute)


class KeyRequest(Body):
    """A key to create; by default it only reads figures, and never expires."""

    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    scopes: list[Scope] = Field(default_factory=list, max_length=2 * len(SCOPES))
    expires_in_seconds: Life | None = None


class RotateRequest(Body):
    """The seconds for which the old key still works, and the life of the new one.

    By default the new key gets as long a life as the old one had.
    """

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)] = DAY_SECONDS
    expires_in_seconds: Life | None = None


class Key(Resource):
    """An admin key; `key` is the secret, and only the answer to its creation has it.

    `expires_at` is null for a key that never expires. `last_used_at` is right to a minute.
    `rotated_to` is the id of the key that replaces this one.
    """

    object: Literal["key"] = "key"
    name: str
    scopes: list[str]
    created_at: Seconds
    expires_at: Seconds | None
    last_used_at: Seconds | None
    rotated_to: str | None
    key: str = ""


@router.post("/keys", **needs("keys", 408, 409, 413))
def create_key(context: CurrentContext, caller: CallersKey, body: KeyRequest) -> Key:
    """Create a key; only this answer contains it."""
    secret = new_key()
    scopes = [scope for scope in SCOPES if scope in (body.scopes or ["read"])]
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        end = _end_of_life(context, caller, scopes, body.expires_in_seconds)
        _check_room(s, body.name)
        row = rows.Key(sha256=digest(secret), name=body.name, scopes=scopes, expires_at=end)
        s.add(row)
        message = f"key {row.id} ({row.name}) was created; it may {' and '.join(scopes)}"
        ledger.events.add(s, "key.created", message)
        ledger.audit.record(s, "key.created", row.id, after=_facts(row))
    read_keys(context)
    return Key.model_validate(row).model_copy(update={"key": secret})


@router.get("/keys", **needs("keys", 404))
def list_keys(context: CurrentContext, paging: PageQuery) -> Page[Key]:
    """List the keys' names and scopes, newest first, without the keys themselves."""
    with context.sessions() as s:
        return paging.page([_with_last_use(context, row) for row in ledger.keys.find(s)])


@router.post("/keys/{key_id}/rotate", **needs("keys", 404, 408, 409, 413))
def rotate_key(
    context: CurrentContext, caller: CallersKey, key_id: str, body: RotateRequest | None = None
) -> Key:
    """Create a key that replaces another one; the old one works until its grace has passed.

    The new key has the name and the scopes of the old one. Only this answer contains it.
    """
    body = body or RotateRequest()
    secret = new_key()
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        old = ledger.keys.get(s, key_id)
        _raise_if_in_file(context, old, "then create another one")
        if old.rotated_to is not None:
            raise ConflictError(f"{old.id} was rotated to {old.rotated_to}; rotate that one")
        life = body.expires_in_seconds
        if life is None and old.expires_at is not None:
            life = int(old.expires_at - old.created_at)
        end = _end_of_life(context, caller, old.scopes, life)
        _check_room(s)
        new = rows.Key(sha256=digest(secret), name=old.name, scopes=old.scopes, expires_at=end)
        s.add(new)
        before = _facts(old)
        old.rotated_to = new.id
        old.expires_at = min(old.expires_at or math.inf, time.time() + body.grace_seconds)
        message = f"key {old.id} ({old.name}) was rotated to {new.id}"
        ledger.events.add(s, "key.rotated", message)
        after = {"id": new.id, **_facts(new), "old_expires_at": old.expires_at}
        ledger.audit.record(s, "key.rotated", old.id, before=before, after=after)
    read_keys(context)
    return Key.model_validate(new).model_copy(update={"key": secret})


@router.delete("/keys/{key_id}", **needs("keys", 404, 409))
def revoke_key(context: CurrentContext, key_id: str) -> Key:
    """Revoke a key; other API processes refuse it from their next poll on."""
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        row = ledger.keys.get(s, key_id)
        _raise_if_in_file(context, row, "then revoke the key")
        s.delete(row)
        ledger.events.add(s, "key.revoked", f"key {row.id} ({row.name}) was revoked")
        ledger.audit.record(s, "key.revoked", row.id, before=_facts(row))
    read_keys(context)
    return Key.model_validate(row)


def _end_of_life(
    context: Context, caller: str, scopes: Collection[str], life: int | None
) -> float | None:
    """Return when a key that the caller makes expires; None if neither expires.

    Call it under the lock, so that a revoked key creates no other. Raises AuthenticationError or
    InsufficientScopeError unless the caller's key has all the scopes.
    """
    creator = check_scope(context, caller, "keys")
    for scope in scopes:
        check_scope(context, caller, scope)
    end = math.inf if life is None else time.time() + life
    end = min(end, creator.expires_at)
    return None if math.isinf(end) else end


def _check_room(s: Session, name: str | None = None) -> None:
    """Raise ConflictError if there are MAX_KEYS keys, or one with this name."""
    ledger.keys.forget_expired(s, for_seconds=FORGOTTEN_SECONDS)
    keys = ledger.keys.find(s)
    if any(key.name == name and key.rotated_to is None for key in keys):
        raise ConflictError(f"a key named {name!r} exists; choose another name, or revoke that key")
    if len(keys) >= MAX_KEYS:
        raise ConflictError(f"there are {len(keys)} keys, and no more are allowed; revoke one")


def _raise_if_in_file(context: Context, row: rows.Key, remedy: str) -> None:
    """Raise ConflictError for the key in this server's admin.key, which a start adds again."""
    path = context.settings.admin_key_path
    if path.exists() and row.sha256 == digest_of_file(path):
        raise ConflictError(
            f"{row.id} is the key in {path}, and the server adds it again when it starts; "
            f"delete that file, restart the server, {remedy}"
        )


def _facts(row: rows.Key) -> dict[str, object]:
    """Return what the audit says about a key."""
    return {"name": row.name, "scopes": row.scopes, "expires_at": row.expires_at}


def _with_last_use(context: Context, row: rows.Key) -> Key:
    """Return a key with its last use, which this process may not have written yet."""
    key = Key.model_validate(row)
    used_at = max(key.last_used_at or 0, int(context.key_uses.get(row.sha256, 0)))
    return key.model_copy(update={"last_used_at": used_at or None})
