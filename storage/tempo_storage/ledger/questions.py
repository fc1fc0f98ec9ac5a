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

    A question whose id is stored already was delivered twice by the stream. A question that is
    labeled is not stored either, because nothing unlabeled may train on a held-out question.
    """
    rows = {record["id"]: _question(record) for record in captured}
    stored_ids = set(s.scalars(select(Question.id).where(Question.id.in_(rows))))
    labeled_hashes = labeled.references(s, [row.content_hash for row in rows.values()])
    new_rows = [row for row in rows.values() if row.id not in stored_ids]
    new = [row for row in new_rows if row.content_hash not in labeled_hashes]
    s.add_all(new)
    s.flush()
    return len(new)


def _question(record: dict[str, Any]) -> Question:
    return Question(
        id=record["id"],
        content_hash=record.get("content_hash") or content_hash(record["messages"]),
        messages=record["messages"],
        chat_template_kwargs=record.get("chat_template_kwargs") or {},
        tenant=record.get("tenant") or "",
        sampling=record.get("sampling") or {},
        captured_at=record["captured_at"],
    )


def count(s: Session) -> tuple[int, int]:
    """Return the number of captured questions, and the number of distinct ones."""
    counts = func.count(), func.count(func.distinct(Question.content_hash))
    captured, distinct = s.execute(select(*counts).select_from(Question)).one()
    return captured, distinct
