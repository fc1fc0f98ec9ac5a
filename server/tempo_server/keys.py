"""Create and check admin keys.

The first key is written to a file. The ledger keeps only the sha256 of each key.

The scopes of all keys are kept in memory, so that a look-up costs no SQL on vLLM's event loop.
The follower reads them again at each poll.
"""

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy.exc import IntegrityError

from tempo_server.context import Context
from tempo_server.errors import AuthenticationError, InsufficientScopeError
from tempo_storage import ledger
from tempo_storage.errors import ConflictError
from tempo_storage.ledger.models import Key
from tempo_storage.settings import read_key

logger = logging.getLogger("vllm.tempo.keys")

Scope = Literal["train", "promote"]
SCOPES = get_args(Scope)
PREFIX = "tk_"
MAX_KEYS = 100


def ensure_admin_key(context: Context) -> Path:
    """Write the admin key's file unless it exists, and add its key to the ledger.

    Raises SettingsError for an empty file: whoever sends no key would otherwise be an admin.
    """
    path = context.settings.admin_key_path
    if not path.exists():
        _write_key(path)
        logger.info("admin key: %s", path)
    digest = _digest_of_file(path)
    with contextlib.suppress(IntegrityError), context.sessions.begin() as s:
        if s.get(Key, digest) is None:  # another process may insert it at the same moment
            s.add(Key(sha256=digest, name="admin", scopes=[*SCOPES]))
    read_keys(context)
    return path


def create_key(
    context: Context, name: str, scopes: Collection[str], *, creator: str
) -> tuple[Key, str]:
    """Add a key with scopes that the creator's key has; return its row and the key itself.

    Raises AuthenticationError or InsufficientScopeError if the creator's key has not all of them,
    and ConflictError if the name is taken or there are MAX_KEYS keys.
    """
    key = _new_key()
    scopes = [scope for scope in SCOPES if scope in scopes]
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        for scope in scopes or [""]:  # under the lock, so that a revoked key creates no other
            check_scope(context, creator, scope)
        _check_room(ledger.keys.find(s), name)
        row = Key(sha256=_digest(key), name=name, scopes=scopes)
        s.add(row)
        message = f"key {row.id} ({name}) was created; it may {' and '.join(scopes) or 'only read'}"
        ledger.events.add(s, "key.created", message)
    read_keys(context)
    return row, key


def revoke_key(context: Context, key_id: str) -> Key:
    """Delete a key; raise ConflictError for the key in this server's admin.key."""
    path = context.settings.admin_key_path
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        row = ledger.keys.get(s, key_id)
        if path.exists() and row.sha256 == _digest_of_file(path):
            raise ConflictError(
                f"{row.id} is the key in {path}, and the server adds it again when it starts; "
                "delete that file, restart the server, then revoke the key"
            )
        s.delete(row)
        ledger.events.add(s, "key.revoked", f"key {row.id} ({row.name}) was revoked")
    read_keys(context)
    return row


def is_admin_key(context: Context, key: str) -> bool:
    """Tell from memory whether `key` is an admin key, whatever its scopes."""
    return _digest(key) in context.key_scopes


def has_scope(context: Context, key: str, scope: str) -> bool:
    """Tell from memory whether `key` is an admin key with a scope; every key has the scope ""."""
    scopes = context.key_scopes.get(_digest(key))
    return scopes is not None and (not scope or scope in scopes)


def check_scope(context: Context, key: str, scope: str) -> None:
    """Raise AuthenticationError or InsufficientScopeError for a key without the scope."""
    read_keys(context)
    if not is_admin_key(context, key):
        raise AuthenticationError(
            "this server has no such key; send the one in the server's admin.key file"
        )
    if not has_scope(context, key, scope):
        raise InsufficientScopeError(
            f"the key lacks the scope {scope!r}; send a key that has it, for example the one in "
            "the server's admin.key file"
        )


def read_keys(context: Context) -> None:
    """Read all keys from the ledger: another process may have added or revoked some."""
    with context.sessions() as s:
        key_scopes = {key.sha256: key.scopes for key in ledger.keys.find(s)}
    context.key_scopes.update(key_scopes)  # first: a key that stays is never missing in between
    for revoked in context.key_scopes.keys() - key_scopes.keys():
        context.key_scopes.pop(revoked, None)


def bearer(authorization: str | None) -> str:
    """Return the key in an Authorization header; raise AuthenticationError if it has none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError(
            "no key was sent; send 'Authorization: Bearer <the key in the server's admin.key file>'"
        )
    return key.strip()


def _check_room(keys: Collection[Key], name: str) -> None:
    if any(key.name == name for key in keys):
        raise ConflictError(f"a key named {name!r} exists; choose another name, or revoke that key")
    if len(keys) >= MAX_KEYS:
        raise ConflictError(f"there are {len(keys)} keys, and no more are allowed; revoke one")


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _write_key(path: Path) -> None:
    # The file is written under another name, then linked. If several processes start together,
    # one of them wins, and nobody reads a half-written key.
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


def _digest_of_file(path: Path) -> str:
    return _digest(read_key(path))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
