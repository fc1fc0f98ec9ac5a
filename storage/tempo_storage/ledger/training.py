"""Whether training is paused, and the row that lets one writer at a time through."""

import time

from sqlalchemy.orm import Session

from tempo_storage.ledger import events
from tempo_storage.ledger.models import Training


def get(s: Session) -> Training:
    """Return whether training is paused, and why."""
    return s.get_one(Training, 1)


def lock(s: Session) -> Training:
    """Let no other transaction that calls this go on until this one ends; return the same row.

    Who adds a job or a labeled file first looks at what is there: two at once would both add it.
    """
    return s.get_one(Training, 1, with_for_update=True)


def set_paused(s: Session, paused: bool, reason: str = "") -> Training:
    """Pause or resume training; survives restarts."""
    row = get(s)
    row.paused, row.reason, row.changed_at = paused, reason, time.time()
    events.add(s, "training.paused" if paused else "training.resumed", reason or "by request")
    return row
