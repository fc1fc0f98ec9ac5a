"""Admin keys: the first is written to a file, of each only the sha256 is kept.

Which keys exist is kept in memory, so that a look-up costs no SQL on vLLM's event loop; the
follower reads it again at each poll.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tempo_server.context import Context
from tempo_server.errors import AuthenticationError, InsufficientScopeError
from tempo_storage import ledger
from tempo_storage.errors import ConflictError
from tempo_storage.ledger.models import Key, Training

logger = logging.getLogger("vllm.tempo.auth")

Scope = Literal["train", "promote"]
PREFIX = "tk_"
SCOPES = get_args(Scope)
MOST_KEYS = 100


def ensure_admin_key(context: Context) -> Path:
    """Make the admin key file unless it is there, and see that the ledger knows its key."""
    path = context.settings.admin_key_path
    if not path.exists():
        _write_key(path)
        logger.info("admin key: %s", path)
    digest = _digest(path.read_text().strip())
    with contextlib.suppress(IntegrityError), context.sessions.begin() as s:
        if s.get(Key, digest) is None:  # another process may insert it at the same moment
            s.add(Key(sha256=digest, name="admin", scopes=[*SCOPES], created_at=time.time()))
    read_keys(context)
    return path


def create_key(
    context: Context, name: str, scopes: Collection[str], *, creator: str
) -> tuple[Key, str]:
    """Add a key with scopes that the creator's has; return its row, and the key itself."""
    key = _new_key()
    granted = [scope for scope in SCOPES if scope in scopes]
    with context.sessions.begin() as s:
        s.get_one(Training, 1, with_for_update=True)  # one creator at a time
        _check_creator(s, creator, granted)
        _check_room(ledger.keys.find(s), name)
        row = Key(sha256=_digest(key), name=name, scopes=granted, created_at=time.time())
        s.add(row)
        told = f"key {row.id} ({name}) is made; it may {' and '.join(granted) or 'only read'}"
        ledger.events.add(s, "key.created", told)
    read_keys(context)
    return row, key


def revoke_key(context: Context, key_id: str) -> Key:
    """Delete a key; raise ConflictError for the one in this server's admin.key."""
    path = context.settings.admin_key_path
    with context.sessions.begin() as s:
        s.get_one(Training, 1, with_for_update=True)  # one at a time
        row = ledger.keys.get(s, key_id)
        if path.exists() and row.sha256 == _digest(path.read_text().strip()):
            raise ConflictError(
                f"{row.id} is the key in {path}, which the server adds again when it starts; "
                "delete that file, restart the server, and revoke the key then"
            )
        s.delete(row)
        ledger.events.add(s, "key.revoked", f"key {row.id} ({row.name}) is revoked")
    read_keys(context)
    return row


def is_known_key(context: Context, key: str) -> bool:
    """Tell whether `key` is an admin key, from memory."""
    return _digest(key) in context.known_keys


def has_scope(context: Context, key: str, scope: str) -> bool:
    """Tell whether `key` is an admin key that may do what `scope` names; "" is to read."""
    scopes = context.known_keys.get(_digest(key))
    return scopes is not None and (not scope or scope in scopes)


def read_keys(context: Context) -> None:
    """Read again which keys exist, for instance after another machine has added its own."""
    with context.sessions() as s:
        known = {key.sha256: key.scopes for key in ledger.keys.find(s)}
    context.known_keys.update(known)  # first: a key that stays is never unknown in between
    for gone in context.known_keys.keys() - known.keys():
        context.known_keys.pop(gone, None)


def bearer(authorization: str | None) -> str:
    """Return the key of an Authorization header; raise AuthenticationError where it has none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError(
            "no key was sent; send 'Authorization: Bearer <the key in the server's admin.key file>'"
        )
    return key.strip()


def _check_creator(s: Session, creator: str, scopes: Collection[str]) -> None:
    # The ledger is asked, not memory: a key that was revoked a moment ago leaves no successor.
    row = s.get(Key, _digest(creator))
    if row is None:
        raise AuthenticationError("the key has been revoked; send one that is still listed")
    for scope in scopes:
        if scope not in row.scopes:
            raise InsufficientScopeError(
                f"the key lacks the scope {scope!r} and cannot grant it; send one that has it"
            )


def _check_room(keys: Collection[Key], name: str) -> None:
    if any(key.name == name for key in keys):
        raise ConflictError(f"there is a key named {name!r}; choose another name, or revoke it")
    if len(keys) >= MOST_KEYS:
        raise ConflictError(f"there are {len(keys)} keys, the most there may be; revoke one")


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _write_key(path: Path) -> None:
    # Linked into place: of several processes that start together one wins, and nobody reads a
    # half-written key.
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(_new_key() + "\n")
        file.flush()
        os.fsync(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
