"""The pool: captured questions without a known answer. An M-step draws from it.

The server captures a question, the ledger stores it in the pool, and the trainer calls it an
unlabeled question. A question counts once, however many users asked it; its rows share a content
hash. A question that is labeled in any dress stays outside: the loose hash tells.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median_high, median_low
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, delete, func, select, update
from sqlalchemy.orm import Session, aliased

from tempo_storage.decoding import Decoding, sampling_arguments
from tempo_storage.ledger import erasures, labeled
from tempo_storage.ledger.models import LabeledExample, Question
from tempo_storage.question_hash import content_hash, loose_hash

MAX_DELETED = 500  # rows or questions that one call of `prune` deletes
RECENT_QUESTIONS = 1000  # distinct questions whose sampling counts as the users'
# With TEMPO_CAPTURE=hash the ledger has the hash of a question only, so nobody can answer it again.
HAS_TEXT = cast(Question.messages, String) != "[]"
DRAWS = func.max(Question.draws)


def add(s: Session, captured: Sequence[dict[str, Any]]) -> int:
    """Store captured questions and return how many were new.

    A question whose id is stored already was delivered twice by the stream. A question that is
    labeled is not stored either, because nothing unlabeled may train on a held-out question. Nor is
    one that was on its way when its tenant's questions were erased.
    """
    rows = {record["id"]: _question(record) for record in erasures.remaining(s, captured)}
    stored_ids = set(s.scalars(select(Question.id).where(Question.id.in_(rows))))
    labeled_hashes = labeled.loose_hashes(s, [row.loose_hash for row in rows.values()])
    new_rows = [row for row in rows.values() if row.id not in stored_ids]
    new = [row for row in new_rows if row.loose_hash not in labeled_hashes]
    _set_draws(s, new)
    s.add_all(new)
    s.flush()
    return len(new)


def _question(record: dict[str, Any]) -> Question:
    # A record of version 0.1 has the arguments of the request in an object of their own.
    sampling = record.get("sampling")
    fields = sampling if isinstance(sampling, dict) else record
    messages = record["messages"]
    # Without text the record has its hashes; one of version 0.1 has the content hash only.
    content = record.get("content_hash") or content_hash(messages)
    return Question(
        **sampling_arguments(fields),
        id=record["id"],
        content_hash=content,
        loose_hash=loose_hash(messages) if messages else record.get("loose_hash") or content,
        messages=messages,
        chat_template_kwargs=record.get("chat_template_kwargs") or {},
        tenant=record.get("tenant") or "",
        captured_at=record["captured_at"],
    )


def count(s: Session) -> tuple[int, int]:
    """Return the number of captured questions, and the number of distinct ones."""
    counts = func.count(), func.count(func.distinct(Question.content_hash))
    captured, distinct = s.execute(select(*counts).select_from(Question)).one()
    return captured, distinct


def tenants(s: Session) -> list[tuple[str, int, float]]:
    """Return tenant, number of questions and time of the last one, the largest number first.

    The tenant is "" for requests without a key, and for all of them with TEMPO_CAPTURE=hash.
    """
    count = func.count()
    query = select(Question.tenant, count, func.max(Question.captured_at))
    query = query.group_by(Question.tenant)
    rows = s.execute(query.order_by(count.desc(), Question.tenant))
    return [(tenant, number, last) for tenant, number, last in rows]


def size(s: Session) -> int:
    """Return the number of distinct questions that an M-step can draw."""
    distinct = func.count(func.distinct(Question.content_hash))
    return s.scalar(select(distinct).where(*_drawable())) or 0


def next_questions(s: Session, count: int) -> list[Question]:
    """Return the next `count` distinct questions to learn from; fewer if the pool has fewer.

    Those with the fewest draws come first, and among them the ones that were first asked last. So
    new questions come first, and each question comes once before any comes twice, while the pool
    grows and is pruned. `record_draws` makes them count as drawn.
    """
    grouped = select(func.min(Question.id)).where(*_drawable()).group_by(Question.content_hash)
    newest = func.min(Question.captured_at).desc()
    ids = list(s.scalars(grouped.order_by(DRAWS, newest, Question.content_hash).limit(count)))
    rows = {row.id: row for row in s.scalars(select(Question).where(Question.id.in_(ids)))}
    return [rows[id] for id in ids]


def record_draws(s: Session, questions: Iterable[Question]) -> None:
    """Add one draw to these questions, and with each to all rows of the same content.

    Record also a question that was too long to be answered, or it is drawn again at once.
    """
    same = Question.content_hash.in_({question.content_hash for question in questions})
    s.execute(update(Question).where(same).values(draws=Question.draws + 1))


def newest_messages(s: Session, count: int) -> list[list[dict[str, Any]]]:
    """Return the messages of the last `count` distinct questions that have text, newest first."""
    return [messages for (messages,) in _newest(s, count, Question.messages, where=HAS_TEXT)]


def users_decoding(s: Session, default: Decoding) -> Decoding:
    """Return the users' sampling: the medians over the last 1,000 distinct questions.

    The newest request of each question counts, so that a probe that repeats one question counts
    once. An argument that a request did not set counts as that of `default`; no `max_tokens` means
    no limit. Of an even number of values the lower median is taken, so that somebody has used it.
    Only where the lower one is greedy and the upper one is not, the upper one is taken, because
    sampled responses show more. Without questions the result is `default`.
    """
    columns = Question.temperature, Question.top_p, Question.top_k, Question.max_tokens
    rows = [_in_use(row, default) for row in _newest(s, RECENT_QUESTIONS, *columns)]
    if not rows:
        return default
    temperatures, top_ps, top_ks, limits = zip(*rows, strict=True)
    temperature = median_low(temperatures)
    if Decoding(temperature).is_greedy:
        temperature = median_high(temperatures)
    top_k = median_low(top_ks)
    if top_k == 1:
        top_k = median_high(top_ks)
    limit = median_low(limits)
    return Decoding(
        temperature,
        median_low(top_ps),
        top_k=0 if math.isinf(top_k) else int(top_k),
        max_tokens=None if math.isinf(limit) else int(limit),
    )


def _in_use(row: Sequence[Any], default: Decoding) -> tuple[float, float, float, float]:
    """Return a request's arguments as vLLM used them, as numbers that can be compared.

    The `top_k` 0 or -1 means all tokens, and no `max_tokens` means no limit: both are infinite.
    """
    temperature, top_p, top_k, max_tokens = row
    top_k = default.top_k if top_k is None else top_k
    max_tokens = default.max_tokens if max_tokens is None else max_tokens
    return (
        default.temperature if temperature is None else temperature,
        default.top_p if top_p is None else top_p,
        math.inf if top_k <= 0 else top_k,
        math.inf if max_tokens is None else max_tokens,
    )


def _newest(
    s: Session, count: int, *columns: Any, where: ColumnElement[bool] | None = None
) -> list[tuple[Any, ...]]:
    """Return these columns of the newest row of each of the last `count` distinct questions."""
    asked_at = func.max(Question.captured_at)
    grouped = select(Question.content_hash, asked_at.label("asked_at"))
    if where is not None:
        grouped = grouped.where(where)
    grouped = grouped.group_by(Question.content_hash).order_by(asked_at.desc()).limit(count)
    last = grouped.subquery()
    same = Question.content_hash == last.c.content_hash, Question.captured_at == last.c.asked_at
    query = select(Question.content_hash, *columns).join(last, and_(*same))
    rows = s.execute(query.order_by(Question.captured_at.desc(), Question.id))
    # Two requests of one question may have the same time.
    values: dict[str, tuple[Any, ...]] = {}
    for name, *row in rows:
        values.setdefault(name, tuple(row))
    return list(values.values())


def _drawable() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    unlabeled = Question.loose_hash.not_in(select(LabeledExample.loose_hash))
    return HAS_TEXT, unlabeled


def _set_draws(s: Session, new: Sequence[Question]) -> None:
    """Set the draws of rows that are not stored yet.

    A question that is asked again has those of its older rows, because these may be pruned. Another
    one begins with the fewest draws of the pool: it takes part in the pass over the pool that is
    under way, and is not drawn once more for each earlier pass.
    """
    fewest = s.scalar(select(func.min(Question.draws)).where(*_drawable())) or 0
    again = Question.content_hash.in_([row.content_hash for row in new])
    query = select(Question.content_hash, DRAWS).where(again).group_by(Question.content_hash)
    draws = {content_hash: draws for content_hash, draws in s.execute(query)}
    for row in new:
        row.draws = draws.get(row.content_hash, fewest)


def count_new(s: Session, since: float) -> int:
    """Return the number of distinct questions that nobody had asked before the time `since`."""
    earlier = aliased(Question)
    same = earlier.content_hash == Question.content_hash
    asked_before = select(earlier.id).where(same, earlier.captured_at <= since).exists()
    new = Question.captured_at > since, HAS_TEXT, ~asked_before
    return s.scalar(select(func.count(func.distinct(Question.content_hash))).where(*new)) or 0


def asked_hashes(s: Session, hashes: Sequence[str]) -> set[str]:
    """Return the loose hashes, out of `hashes`, of questions that users have asked."""
    return set(s.scalars(select(Question.loose_hash).where(Question.loose_hash.in_(hashes))))


def expire(s: Session, before: float) -> int:
    """Delete the questions that were captured before a time; return their number."""
    old = Question.captured_at < before
    expired = s.scalar(select(func.count()).select_from(Question).where(old)) or 0
    s.execute(delete(Question).where(old))
    return expired


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
