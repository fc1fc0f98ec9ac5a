"""Captured questions in the ledger: store them, and count them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tempo_storage.ledger import labeled
from tempo_storage.ledger.models import Question
from tempo_storage.questions import content_hash


def add(s: Session, captured: Sequence[dict[str, Any]]) -> int:
    """Store captured questions and return how many were new.

    A question id that is already there is the stream's redelivery; a content that is labeled
    never enters the pool (the label wins, and held-out questions must stay unseen).
    """
    rows = {c["id"]: _question(c) for c in captured}
    known = set(s.scalars(select(Question.id).where(Question.id.in_(rows))))
    known_labels = labeled.references(s, [q.content_hash for q in rows.values()])
    new = [q for q in rows.values() if q.id not in known and q.content_hash not in known_labels]
    s.add_all(new)
    s.flush()
    return len(new)


def _question(captured: dict[str, Any]) -> Question:
    return Question(
        id=captured["id"],
        content_hash=captured.get("content_hash") or content_hash(captured["messages"]),
        messages=captured["messages"],
        chat_template_kwargs=captured.get("chat_template_kwargs") or {},
        tenant=captured.get("tenant") or "",
        adapter_version=captured.get("adapter_version", 0),
        sampling=captured.get("sampling") or {},
        captured_at=captured["captured_at"],
    )


def count(s: Session) -> tuple[int, int]:
    """Return how many questions were captured, and how many are distinct."""
    counts = func.count(), func.count(func.distinct(Question.content_hash))
    captured, distinct = s.execute(select(*counts).select_from(Question)).one()
    return captured, distinct
