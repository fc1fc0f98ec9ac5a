"""Admin keys in the ledger."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from tempo_storage.ledger.models import Key
from tempo_storage.ledger.rows import require


def find(s: Session) -> list[Key]:
    """Return all admin keys, newest first."""
    return list(s.scalars(select(Key).order_by(Key.created_at.desc())))


def get(s: Session, key_id: str) -> Key:
    """Return one admin key; raise NotFoundError if there is none with this id."""
    return require(next((row for row in find(s) if row.id == key_id), None), "key", key_id)
