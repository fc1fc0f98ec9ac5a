"""The pool: captured questions without a known answer. An M-step draws from it.

The server captures a question, the ledger stores it in the pool, and the trainer calls it an
unlabeled question. A question counts once, however many users asked it; its rows share a content
hash.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import String, cast, delete, func, select
from sqlalchemy.orm import Session, aliased

from tempo_storage.ledger import labeled
from tempo_storage.ledger.models import LabeledExample, Question
from tempo_storage.question_hash import content_hash

MAX_DELETED = 500  # rows or questions that one call of `prune` deletes
# With TEMPO_CAPTURE=hash the ledger has the hash of a question only, so nobody can answer it again.
HAS_TEXT = cast(Question.messages, String) != "[]"


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


def distinct_hashes(s: Session) -> list[str]:
    """Return the hash of each distinct question of the pool, the first captured first."""
    unlabeled = Question.content_hash.not_in(select(LabeledExample.content_hash))
    query = select(Question.content_hash).where(HAS_TEXT, unlabeled)
    first = func.min(Question.captured_at)
    return list(
        s.scalars(query.group_by(Question.content_hash).order_by(first, Question.content_hash))
    )


def questions(s: Session, hashes: Sequence[str]) -> list[Question]:
    """Return one row for each hash that is still stored, in the order of `hashes`."""
    stored = Question.content_hash.in_(hashes), HAS_TEXT
    ids = select(func.min(Question.id)).where(*stored).group_by(Question.content_hash)
    rows = {q.content_hash: q for q in s.scalars(select(Question).where(Question.id.in_(ids)))}
    return [rows[h] for h in hashes if h in rows]


def count_new(s: Session, since: float) -> int:
    """Return the number of distinct questions that nobody had asked before the time `since`."""
    earlier = aliased(Question)
    same = earlier.content_hash == Question.content_hash
    asked_before = select(earlier.id).where(same, earlier.captured_at <= since).exists()
    new = Question.captured_at > since, HAS_TEXT, ~asked_before
    return s.scalar(select(func.count(func.distinct(Question.content_hash))).where(*new)) or 0


def asked_hashes(s: Session, hashes: Sequence[str]) -> set[str]:
    """Return the hashes, out of `hashes`, of questions that users have asked."""
    return set(s.scalars(select(Question.content_hash).where(Question.content_hash.in_(hashes))))


def prune(s: Session, keep: int) -> None:
    """Delete up to 500 surplus questions, or else up to 500 surplus rows.

    The `keep` most recently asked distinct questions stay; the others are surplus, and the least
    recently asked go first. If there are no surplus questions but more than twice `keep` rows, the
    rows beyond that number are surplus: the oldest repeats go first, and the newest row of each
    question stays.
    """
    rows, distinct = count(s)
    last_asked = func.max(Question.captured_at)
    if distinct > keep:
        hashes = select(Question.content_hash).group_by(Question.content_hash)
        oldest = hashes.order_by(last_asked).limit(min(distinct - keep, MAX_DELETED))
        s.execute(delete(Question).where(Question.content_hash.in_(oldest)))
    elif rows > 2 * keep:
        newest_rows = select(last_asked).group_by(Question.content_hash)
        repeats = select(Question.id).where(Question.captured_at.not_in(newest_rows))
        surplus = min(rows - 2 * keep, MAX_DELETED)
        oldest = repeats.order_by(Question.captured_at).limit(surplus)
        s.execute(delete(Question).where(Question.id.in_(oldest)))
