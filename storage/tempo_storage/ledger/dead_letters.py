"""Dead letters: captured questions that the ledger could not store, each with its reason.

They are kept so that nothing is lost without a trace, and so that the questions behind them flow.
"""

import json
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.ledger import events
from tempo_storage.ledger.models import DeadLetter

MAX_CHARACTERS = 65_536  # of an entry
MAX_KEPT = 1_000


def add(s: Session, entry_id: str, entry: dict[str, Any], *, reason: str) -> None:
    """Keep an entry of the stream; the oldest ones go beyond MAX_KEPT. Say so in an event."""
    s.merge(DeadLetter(entry_id=entry_id, reason=reason, entry=_text(entry)))
    s.flush()
    newest = select(DeadLetter.entry_id).order_by(DeadLetter.created_at.desc()).limit(MAX_KEPT)
    s.execute(delete(DeadLetter).where(DeadLetter.entry_id.not_in(newest)))
    message = f"a captured question cannot be stored ({reason}); the ledger keeps it aside"
    events.add(s, "questions.dead_letter", message, level="error")


def count(s: Session) -> int:
    """Return how many entries are set aside."""
    return s.scalar(select(func.count()).select_from(DeadLetter)) or 0


def _text(entry: dict[str, Any]) -> str:
    """Return an entry as JSON, as far as it can be written."""
    try:
        return json.dumps(entry, default=repr)[:MAX_CHARACTERS]
    except (RecursionError, ValueError):
        return json.dumps(sorted(map(repr, entry)))[:MAX_CHARACTERS]  # the names of its fields
