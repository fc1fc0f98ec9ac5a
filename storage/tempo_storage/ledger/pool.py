"""The unlabeled pool: which questions may be drawn, and which are dropped when it is full."""

from collections.abc import Sequence

from sqlalchemy import String, cast, delete, func, select
from sqlalchemy.orm import Session, aliased

from tempo_storage.ledger import questions as all_questions
from tempo_storage.ledger.models import LabeledExample, Question

PRUNED_AT_ONCE = 500
# Of some only the hash was kept (TEMPO_CAPTURE=hash): they cannot be asked again.
HAS_TEXT = cast(Question.messages, String) != "[]"


def distinct_hashes(s: Session) -> list[str]:
    """Return the hash of each distinct question that is not labeled, the first captured first."""
    unlabeled = Question.content_hash.not_in(select(LabeledExample.content_hash))
    query = select(Question.content_hash).where(HAS_TEXT, unlabeled)
    first = func.min(Question.captured_at)
    return list(
        s.scalars(query.group_by(Question.content_hash).order_by(first, Question.content_hash))
    )


def questions(s: Session, hashes: Sequence[str]) -> list[Question]:
    """Return one row for each content that is still there, in the given order."""
    wanted = Question.content_hash.in_(hashes), HAS_TEXT
    one = select(func.min(Question.id)).where(*wanted).group_by(Question.content_hash)
    rows = {q.content_hash: q for q in s.scalars(select(Question).where(Question.id.in_(one)))}
    return [rows[h] for h in hashes if h in rows]


def count_new(s: Session, since: float) -> int:
    """Return how many distinct questions were captured after `since` for the first time."""
    earlier = aliased(Question)
    same = earlier.content_hash == Question.content_hash
    known = select(earlier.id).where(same, earlier.captured_at <= since).exists()
    arrived = Question.captured_at > since, HAS_TEXT, ~known
    return s.scalar(select(func.count(func.distinct(Question.content_hash))).where(*arrived)) or 0


def asked(s: Session, hashes: Sequence[str]) -> set[str]:
    """Return those contents that are in the pool."""
    query = select(Question.content_hash).where(Question.content_hash.in_(hashes))
    return set(s.scalars(query.distinct()))


def prune(s: Session, keep: int) -> None:
    """Delete a batch of what is too much.

    The `keep` contents that were asked last stay. Of one that was asked more than once older rows
    go, the oldest first, when there are more than twice `keep` rows in all.
    """
    rows, distinct = all_questions.count(s)
    last = func.max(Question.captured_at)
    by_content = select(Question.content_hash).group_by(Question.content_hash)
    if distinct > keep:
        oldest = by_content.order_by(last).limit(min(distinct - keep, PRUNED_AT_ONCE))
        s.execute(delete(Question).where(Question.content_hash.in_(oldest)))
    elif rows > 2 * keep:
        newest = select(last).group_by(Question.content_hash)
        repeated = select(Question.id).where(Question.captured_at.not_in(newest))
        surplus = min(rows - 2 * keep, PRUNED_AT_ONCE)
        oldest = repeated.order_by(Question.captured_at).limit(surplus)
        s.execute(delete(Question).where(Question.id.in_(oldest)))
