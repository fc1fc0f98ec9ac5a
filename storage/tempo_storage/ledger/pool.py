"""The pool: captured questions without a known answer. An M-step draws from it.

The server captures a question, the ledger stores it in the pool, and the trainer calls it an
unlabeled question. Questions of one `pool_hash` count once, whoever asked them in whatever dress. A
question that is labeled in any dress stays outside: the loose hash tells. No tenant fills more than
its share of the pool or of a draw (`tenants.py`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_high, median_low
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    and_,
    case,
    cast,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from tempo_storage.decoding import Decoding, sampling_arguments
from tempo_storage.ledger import erasures, labeled, tenants
from tempo_storage.ledger.models import LabeledExample, Question
from tempo_storage.question_hash import content_hash, loose_hash, pool_hash

MAX_DELETED = 500  # rows or questions of the surplus that one call of `prune` deletes
RECENT_QUESTIONS = 1000  # distinct questions whose sampling counts as the users'
# With TEMPO_CAPTURE=hash the ledger has the hash of a question only, so nobody can answer it again.
HAS_TEXT = cast(Question.messages, String) != "[]"
DRAWS = func.max(Question.draws)
FIRST_ASKED = func.min(Question.captured_at)
LAST_ASKED = func.max(Question.captured_at)


def add(
    s: Session,
    captured: Sequence[dict[str, Any]],
    *,
    keep: int | None = None,
    quarantine: int = 0,
) -> int:
    """Store captured questions and return how many were new; then `prune` to `keep` questions.

    A question whose id is stored already was delivered twice by the stream. A question that is
    labeled is not stored either, because nothing unlabeled may train on a held-out question. Nor is
    one that was on its way when its tenant's questions were erased. `quarantine` is that of new
    tenants (`tenants.record`).
    """
    rows = {record["id"]: _question(record) for record in erasures.remaining(s, captured)}
    stored_ids = set(s.scalars(select(Question.id).where(Question.id.in_(rows))))
    labeled_hashes = labeled.loose_hashes(s, [row.loose_hash for row in rows.values()])
    new_rows = [row for row in rows.values() if row.id not in stored_ids]
    new = [row for row in new_rows if row.loose_hash not in labeled_hashes]
    first_asked = _set_draws_and_owners(s, new)
    s.add_all(new)
    s.flush()
    if new:
        tenants.record(s, new, first_asked, quarantine=quarantine)
    if keep is not None:
        prune(s, keep, first_asked)
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
        pool_hash=pool_hash(messages) if messages else content,
        loose_hash=loose_hash(messages) if messages else record.get("loose_hash") or content,
        messages=messages,
        chat_template_kwargs=record.get("chat_template_kwargs") or {},
        tenant=record.get("tenant") or "",
        captured_at=record["captured_at"],
    )


def count(s: Session) -> tuple[int, int]:
    """Return the number of captured questions, and the number of distinct ones."""
    counts = func.count(), func.count(func.distinct(Question.pool_hash))
    captured, distinct = s.execute(select(*counts).select_from(Question)).one()
    return captured, distinct


def size(s: Session) -> int:
    """Return the number of distinct questions that an M-step can draw."""
    distinct = func.count(func.distinct(Question.pool_hash))
    return s.scalar(select(distinct).where(*_drawable())) or 0


def next_questions(s: Session, count: int) -> list[Question]:
    """Return the next `count` distinct questions to learn from; fewer if the pool has fewer.

    Those with the fewest draws come first, and among them the ones that were first asked last. So
    new questions come first, and each question comes once before any comes twice, while the pool
    grows and is pruned. `record_draws` makes them count as drawn.

    A tenant gets its share of `count` at most. Its questions beyond that come in a later draw, and
    hold back those that were drawn more often; so a draw may be smaller than `count`.
    """
    turns = _turns(tenants.allowance(s, count)).limit(count).subquery()
    same = turns.c.pool_hash == Question.pool_hash, turns.c.first == Question.captured_at
    rows = select(Question).join(turns, and_(*same)).where(*_drawable())
    rows = rows.order_by(turns.c.draws, turns.c.first.desc(), turns.c.pool_hash, Question.id.desc())
    # Two requests of one question may have the same time.
    return list({row.pool_hash: row for row in s.scalars(rows)}.values())


def _turns(share: int) -> Select[Any]:
    """Return the questions in the order of a draw in which each tenant has `share` at most.

    `place` counts the questions of a tenant in this order. Where one is beyond the share, no
    question with more draws has its turn.
    """
    draws, first = DRAWS.label("draws"), FIRST_ASKED.label("first")
    owner = func.max(Question.owner).label("owner")  # all rows of a question have the same
    grouped = select(Question.pool_hash, owner, draws, first).where(*_drawable())
    pool = grouped.group_by(Question.pool_hash).subquery().c
    order = pool.draws, pool.first.desc(), pool.pool_hash
    place = func.row_number().over(partition_by=pool.owner, order_by=order).label("place")
    placed = select(pool.pool_hash, pool.draws, pool.first, place).subquery().c
    held_back = func.min(case((placed.place > share, placed.draws))).over().label("held_back")
    all_turns = select(*placed, held_back).subquery().c
    in_turn = or_(all_turns.held_back.is_(None), all_turns.draws <= all_turns.held_back)
    turns = select(*all_turns).where(all_turns.place <= share, in_turn)
    return turns.order_by(all_turns.draws, all_turns.first.desc(), all_turns.pool_hash)


def record_draws(s: Session, questions: Iterable[Question]) -> None:
    """Add one draw to these questions, and with each to all rows of the same question.

    Record also a question that was too long to be answered, or it is drawn again at once.
    """
    same = Question.pool_hash.in_({question.pool_hash for question in questions})
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
    grouped = select(Question.pool_hash, LAST_ASKED.label("asked_at"))
    if where is not None:
        grouped = grouped.where(where)
    grouped = grouped.group_by(Question.pool_hash).order_by(LAST_ASKED.desc()).limit(count)
    last = grouped.subquery()
    same = Question.pool_hash == last.c.pool_hash, Question.captured_at == last.c.asked_at
    query = select(Question.pool_hash, *columns).join(last, and_(*same))
    rows = s.execute(query.order_by(Question.captured_at.desc(), Question.id))
    # Two requests of one question may have the same time.
    values: dict[str, tuple[Any, ...]] = {}
    for name, *row in rows:
        values.setdefault(name, tuple(row))
    return list(values.values())


def _drawable() -> tuple[ColumnElement[bool], ...]:
    unlabeled = Question.loose_hash.not_in(select(LabeledExample.loose_hash))
    return HAS_TEXT, unlabeled, tenants.is_admitted()


def _set_draws_and_owners(s: Session, new: Sequence[Question]) -> Counter[str]:
    """Set draws and owner of rows not stored yet; count, by owner, the questions asked first here.

    A question that is asked again has those of its older rows, because these may be pruned. Another
    one begins with the fewest draws of the pool: it takes part in the pass over the pool that is
    under way, and is not drawn once more for each earlier pass.
    """
    fewest = s.scalar(select(func.min(Question.draws)).where(*_drawable())) or 0
    again = Question.pool_hash.in_([row.pool_hash for row in new])
    query = select(Question.pool_hash, DRAWS, func.max(Question.owner)).where(again)
    rows = s.execute(query.group_by(Question.pool_hash))
    stored = {pool_hash: (draws, owner) for pool_hash, draws, owner in rows}
    first_asked: Counter[str] = Counter()
    for row in new:
        if row.pool_hash not in stored:
            stored[row.pool_hash] = fewest, row.tenant
            first_asked[row.tenant] += 1
        row.draws, row.owner = stored[row.pool_hash]
    return first_asked


def count_new(s: Session, since: float) -> int:
    """Return the number of distinct questions that nobody had asked before the time `since`."""
    by_hash = select(Question.pool_hash).group_by(Question.pool_hash)
    new = by_hash.having(since < FIRST_ASKED)
    distinct = select(func.count(func.distinct(Question.pool_hash)))
    return s.scalar(distinct.where(Question.pool_hash.in_(new), *_drawable())) or 0


def asked_hashes(s: Session, hashes: Sequence[str]) -> set[str]:
    """Return the loose hashes, out of `hashes`, of questions that users have asked."""
    return set(s.scalars(select(Question.loose_hash).where(Question.loose_hash.in_(hashes))))


def expire(s: Session, before: float) -> int:
    """Delete the questions that were captured before a time; return their number."""
    old = Question.captured_at < before
    expired = s.scalar(select(func.count()).select_from(Question).where(old)) or 0
    s.execute(delete(Question).where(old))
    return expired


def prune(s: Session, keep: int, first_asked: Mapping[str, int] | None = None) -> None:
    """Delete up to 500 surplus questions, or else up to 500 surplus rows.

    Questions beyond the number `keep` are surplus. Those of tenants that hold more than their share
    go first, and of them or of all the ones that were least recently asked. If there are no surplus
    questions but more than twice `keep` rows, the rows beyond that number are surplus: the oldest
    repeats go first, and the newest row of each question stays.

    A tenant at its share grows no more: questions that it has just asked first (`first_asked`)
    replace as many of its own.
    """
    share = tenants.allowance(s, keep)
    held = tenants.held(s)
    for owner, count_asked in (first_asked or {}).items():
        held[owner] -= _evict(s, min(count_asked, held[owner] - share), owner)
    surplus = min(held.total() - keep, MAX_DELETED)
    if surplus <= 0:
        return _delete_repeats(s, keep)
    for owner, number in held.most_common(tenants.MIN_SHARE):
        surplus -= _evict(s, min(surplus, number - share), owner)
    _evict(s, surplus)


def _evict(s: Session, count: int, *owners: str) -> int:
    """Delete the `count` questions that were least recently asked, of all owners or of these."""
    if count <= 0:
        return 0
    hashes = select(Question.pool_hash).group_by(Question.pool_hash)
    if owners:
        hashes = hashes.where(Question.owner.in_(owners))
    oldest = hashes.order_by(LAST_ASKED, Question.pool_hash).limit(count)
    s.execute(delete(Question).where(Question.pool_hash.in_(oldest)))
    return count


def _delete_repeats(s: Session, keep: int) -> None:
    rows, _ = count(s)
    surplus = min(rows - 2 * keep, MAX_DELETED)
    if surplus > 0:
        newest_rows = select(LAST_ASKED).group_by(Question.pool_hash)
        repeats = select(Question.id).where(Question.captured_at.not_in(newest_rows))
        oldest = repeats.order_by(Question.captured_at).limit(surplus)
        s.execute(delete(Question).where(Question.id.in_(oldest)))
