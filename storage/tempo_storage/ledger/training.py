"""The row that says whether training is paused. It also serves as the ledger's lock."""

import time

from sqlalchemy.orm import Session

from tempo_storage.ledger import audit, events
from tempo_storage.ledger.models import Training


def get(s: Session) -> Training:
    """Return whether training is paused, and why."""
    return s.get_one(Training, 1)


def lock(s: Session) -> None:
    """Make every other transaction that calls this wait until this transaction ends.

    Call it before you add a job, a labeled file or a key whose condition you check first: two
    transactions at once would both find that they may add it.
    """
    s.get_one(Training, 1, with_for_update=True)


def set_paused(s: Session, paused: bool, reason: str = "") -> Training:
    """Pause or resume training; this survives restarts."""
    row = get(s)
    word = "training.paused" if paused else "training.resumed"
    after = {"paused": paused, "reason": reason}
    audit.record(s, word, "training", before={"paused": row.paused}, after=after)
    row.paused = paused
    row.reason = reason
    row.changed_at = time.time()
    events.add(s, word, reason or "by request")
    return row
