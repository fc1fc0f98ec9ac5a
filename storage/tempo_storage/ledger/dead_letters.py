"""Dead letters: captured questions that the ledger could not store, each with its reason.

They are kept so that nothing is lost without a trace, and so that the questions behind them flow.
"""

import json
import time
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.ledger import erasures, events
from tempo_storage.ledger.models import DeadLetter

MAX_CHARACTERS = 65_536  # of an entry
MAX_KEPT = 1_000
EVENT_SECONDS = 60.0  # between two events: a flood must not fill the ledger
EVENT = "questions.dead_letter"


def add(s: Session, entry_id: str, entry: dict[str, Any], *, reason: str) -> None:
    """Keep an entry of the stream; the oldest ones go beyond MAX_KEPT.

    An event says so, at most one a minute while nothing else fails. An entry of a tenant whose
    questions were erased is not kept.
    """
    if not erasures.remaining(s, [entry]):
        return
    s.merge(DeadLetter(entry_id=entry_id, reason=reason, entry=_text(entry)))
    s.flush()
    newest = select(DeadLetter.entry_id).order_by(DeadLetter.created_at.desc()).limit(MAX_KEPT)
    s.execute(delete(DeadLetter).where(DeadLetter.entry_id.not_in(newest)))
    last = events.last_error(s)
    if last is None or last.type != EVENT or last.created_at < time.time() - EVENT_SECONDS:
        message = f"a captured question cannot be stored ({reason}); the ledger keeps it aside"
        events.add(s, EVENT, message, level="error")


def count(s: Session) -> int:
    """Return how many entries are set aside."""
    return s.scalar(select(func.count()).select_from(DeadLetter)) or 0


def erase(s: Session, tenant: str) -> int:
    """Delete the entries of a tenant, and those that do not say whose they are; count them."""
    rows = s.execute(select(DeadLetter.entry_id, DeadLetter.entry)).all()
    theirs = [entry_id for entry_id, text in rows if _tenant(text) in (tenant, None)]
    s.execute(delete(DeadLetter).where(DeadLetter.entry_id.in_(theirs)))
    return len(theirs)


def expire(s: Session, before: float) -> int:
    """Delete the entries that were captured or set aside before a time; return their number."""
    rows = s.execute(select(DeadLetter.entry_id, DeadLetter.created_at, DeadLetter.entry)).all()
    old = [entry_id for entry_id, at, text in rows if min(at, _captured_at(text, at)) < before]
    s.execute(delete(DeadLetter).where(DeadLetter.entry_id.in_(old)))
    return len(old)


def _tenant(text: str) -> str | None:
    """Return the tenant of an entry; None if its text was cut, or names none."""
    tenant = _fields(text).get("tenant")
    return tenant if isinstance(tenant, str) else None


def _captured_at(text: str, default: float) -> float:
    """Return the time at which an entry was captured, as far as it says one."""
    captured_at = _fields(text).get("captured_at")
    return captured_at if isinstance(captured_at, int | float) else default


def _fields(text: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _text(entry: dict[str, Any]) -> str:
    """Return an entry as JSON, as far as it can be written."""
    try:
        return json.dumps(entry, default=repr)[:MAX_CHARACTERS]
    except (RecursionError, ValueError):
        return json.dumps(sorted(map(repr, entry)))[:MAX_CHARACTERS]  # the names of its fields
