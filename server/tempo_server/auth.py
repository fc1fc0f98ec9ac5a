"""Admin keys: the first is written to a file, of each only the sha256 is kept.

Which keys exist is kept in memory, so that a look-up costs no SQL on vLLM's event loop.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import time
from pathlib import Path

from sqlalchemy.exc import IntegrityError

from tempo_server.context import Context
from tempo_server.errors import AuthenticationError
from tempo_storage import queries
from tempo_storage.models import Key

logger = logging.getLogger("vllm.tempo.auth")

PREFIX = "tk_"
SCOPES = ("train", "promote")


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
        known = {key.sha256: key.scopes for key in queries.keys(s)}
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


def _write_key(path: Path) -> None:
    # Linked into place: of several processes that start together one wins, and nobody reads a
    # half-written key.
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(PREFIX + secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
