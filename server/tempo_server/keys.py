"""Check admin keys, and write the first one to a file. The ledger keeps only each key's sha256.

All keys are kept in memory, so that a look-up costs no SQL on vLLM's event loop. The follower reads
them again at each poll, and writes when they were last used.
"""

import contextlib
import hashlib
import logging
import math
import os
import secrets
import time
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy.exc import IntegrityError

from tempo_server.context import Context, KnownKey
from tempo_server.errors import AuthenticationError, InsufficientScopeError
from tempo_storage import ledger
from tempo_storage.ledger.models import Key
from tempo_storage.settings import read_key

logger = logging.getLogger("vllm.tempo.keys")

Scope = Literal["read", "labels:read", "labels:write", "train", "promote", "questions", "keys"]
SCOPES = get_args(Scope)
PREFIX = "tk_"


def ensure_admin_key(context: Context) -> Path:
    """Write the admin key's file unless it exists, and add its key to the ledger.

    Raises SettingsError for an empty file: whoever sends no key would otherwise be an admin.
    """
    path = context.settings.admin_key_path
    if not path.exists():
        _write_key(path)
        logger.info("admin key: %s", path)
    sha256 = digest_of_file(path)
    with contextlib.suppress(IntegrityError), context.sessions.begin() as s:
        if s.get(Key, sha256) is None:  # another process may insert it at the same moment
            row = Key(sha256=sha256, name="admin", scopes=[*SCOPES])
            s.add(row)
            ledger.audit.record(
                s, "key.created", row.id, after={"name": "admin", "file": str(path)}
            )
    read_keys(context)
    return path


def key_with_scope(context: Context, key: str, scope: str) -> KnownKey | None:
    """Return from memory the key that has a scope and has not expired; it counts as used."""
    sha256 = digest(key)
    known = context.keys.get(sha256)
    if known is None or scope not in known.scopes or known.expires_at <= time.time():
        return None
    context.key_uses[sha256] = time.time()
    return known


def is_workers_key(context: Context, key: str) -> bool:
    """Tell from memory whether a key may name every version: it has the scope `train`.

    Questions with such a key are measurements, and nobody keeps them.
    """
    return key_with_scope(context, key, "train") is not None


def check_scope(context: Context, key: str, scope: str) -> KnownKey:
    """Return the key that has a scope, as of now in the ledger.

    Raises AuthenticationError for an unknown or expired key, InsufficientScopeError for one without
    the scope.
    """
    read_keys(context)
    known = key_with_scope(context, key, scope)
    if known is None:
        raise _refusal(context.keys.get(digest(key)), scope)
    return known


def _refusal(known: KnownKey | None, scope: str) -> Exception:
    if known is None:
        return AuthenticationError(
            "this server has no such key; send the one in the server's admin.key file"
        )
    if known.expires_at <= time.time():
        expired_at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(known.expires_at))
        return AuthenticationError(
            f"the key {known.id} ({known.name}) expired at {expired_at}; send another one, which "
            "`tempo keys create` or `tempo keys rotate` makes"
        )
    return InsufficientScopeError(
        f"the key {known.id} ({known.name}) lacks the scope {scope!r}; send a key that has it, for "
        "example the one in the server's admin.key file"
    )


def read_keys(context: Context) -> None:
    """Read all keys from the ledger: another process may have added or revoked some."""
    with context.sessions() as s:
        keys = {row.sha256: _known(row) for row in ledger.keys.find(s)}
    context.keys.update(keys)  # first: a key that stays is never missing in between
    for revoked in context.keys.keys() - keys.keys():
        context.keys.pop(revoked, None)


def take_uses(context: Context) -> dict[str, float]:
    """Return when each key was last used since the last call."""
    uses = dict(context.key_uses)
    for sha256 in uses:
        context.key_uses.pop(sha256, None)
    return uses


def bearer(authorization: str | None) -> str:
    """Return the key in an Authorization header; raise AuthenticationError if it has none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError(
            "no key was sent; send 'Authorization: Bearer <the key in the server's admin.key file>'"
        )
    return key.strip()


def new_key() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Return the sha256 of a key."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the sha256 of the key in a file; raise SettingsError for an empty file."""
    return digest(read_key(path))


def _known(row: Key) -> KnownKey:
    expires_at = math.inf if row.expires_at is None else row.expires_at
    return KnownKey(row.id, row.name, frozenset(row.scopes), expires_at)


def _write_key(path: Path) -> None:
    # The file is written under another name, then linked. If several processes start together,
    # one of them wins, and nobody reads a half-written key.
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(new_key() + "\n")
        file.flush()
        os.fsync(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
