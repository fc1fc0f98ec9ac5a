"""Admin keys in the ledger."""

import time
from collections.abc import Mapping

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from tempo_storage.ledger.models import Key
from tempo_storage.ledger.rows import require

USE_SECONDS = 60.0  # the last use of a key is known to a minute


def find(s: Session) -> list[Key]:
    """Return all admin keys, newest first."""
    return list(s.scalars(select(Key).order_by(Key.created_at.desc())))


def get(s: Session, key_id: str) -> Key:
    """Return one admin key; raise NotFoundError if there is none with this id."""
    return require(next((row for row in find(s) if row.id == key_id), None), "key", key_id)


def record_uses(s: Session, uses: Mapping[str, float]) -> None:
    """Store when each key was last used, by its sha256."""
    for sha256, used_at in uses.items():
        is_older = or_(Key.last_used_at.is_(None), Key.last_used_at < used_at - USE_SECONDS)
        s.execute(update(Key).where(Key.sha256 == sha256, is_older).values(last_used_at=used_at))


def forget_expired(s: Session, *, for_seconds: float) -> None:
    """Delete the keys that expired so long ago."""
    s.execute(delete(Key).where(Key.expires_at < time.time() - for_seconds))
