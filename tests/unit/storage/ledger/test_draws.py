"""Draws from the pool: new questions first, and each once before any twice."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ledgers import captured
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import Question

Sessions = sessionmaker[Session]


def ask(s: Session, *texts: str, at: float = 0.0, **fields: Any) -> None:
    ledger.pool.add(
        s,
        [
            captured(f"q{at}-{n}", text, captured_at=at + n / 1000, **fields)
            for n, text in enumerate(texts)
        ],
    )


def draw(s: Session, count: int) -> list[str]:
    """Draw questions as an iteration does; return their texts."""
    questions = ledger.pool.next_questions(s, count)
    ledger.pool.record_draws(s, questions)
    return [question.messages[-1]["content"] for question in questions]


def test_each_question_comes_once_before_any_comes_twice(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, *(f"q {n}" for n in range(10)))
        texts = [text for _ in range(10) for text in draw(s, 3)]
    assert all(len(set(texts[i : i + 10])) == 10 for i in range(0, 30, 10))


def test_new_questions_come_first_and_once_in_a_pass(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "a", "b", "c")
        for _ in range(4):
            assert set(draw(s, 3)) == {"a", "b", "c"}
        ask(s, "new", "newer", at=1.0)
        assert draw(s, 3) == ["newer", "new", "c"]
        assert set(draw(s, 2)) == {"a", "b"}  # the new ones do not catch up on four passes
        assert sorted(draw(s, 5)) == ["a", "b", "c", "new", "newer"]


def test_a_question_that_is_asked_again_does_not_become_new(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "again", "other")
        assert draw(s, 2) == ["other", "again"]
        ask(s, *["again"] * 6, at=1.0)
        ask(s, "new", at=2.0)
        ledger.pool.prune(s, 2)
        ledger.pool.prune(s, 2)
        assert s.get(Question, "q0.0-0") is None  # the row that was there when it was drawn
        ask(s, "again", at=3.0)
        assert draw(s, 1) == ["new"]


def test_draws_count_for_all_rows_of_a_question_and_for_nobody_else(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "twice", "twice", "once")
        question = next(iter(s.scalars(select(Question))))
        ledger.pool.record_draws(s, [question, question])
        s.expire_all()
        draws = Counter(row.draws for row in s.scalars(select(Question)))
    assert draws == {1: 2, 0: 1}


def test_each_question_comes_once_in_a_pass_while_the_pool_grows_and_is_pruned(
    sessions: Sessions,
) -> None:
    draws: Counter[str] = Counter()
    with sessions.begin() as s:
        for step in range(12):
            ask(s, *(f"{step} {n}" for n in range(8)), at=float(step))
            draws.update(draw(s, 16))
            ledger.pool.prune(s, 60)
        while max(draws.values()) == 1:
            draws.update(draw(s, 4))
        kept = {row.messages[-1]["content"] for row in s.scalars(select(Question))}
    assert len(kept) == 60
    assert all(draws[text] >= 1 for text in kept)


def test_500_new_questions_are_the_next_500_of_a_pool_of_20_000(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all(question(f"old {n}", at=n, draws=n % 2) for n in range(20_000))
        s.add_all(question(f"new {n}", at=30_000 + n, draws=0) for n in range(500))
    with sessions.begin() as s:
        seconds, texts = timed(lambda: draw(s, 500))
        assert all(text.startswith("new") for text in texts)
        assert seconds < 2.0
        others = [text for _ in range(20) for text in draw(s, 500)]
        assert len(set(others)) == 10_000
        assert all(int(text.split()[1]) % 2 == 0 for text in others)


def question(text: str, *, at: float, draws: int) -> Question:
    """Return a row of the pool; a hash of each text would take most of the test's time."""
    return Question(
        id=text,
        content_hash=text,
        loose_hash=text,
        pool_hash=text,
        messages=[{"role": "user", "content": text}],
        chat_template_kwargs={},
        tenant="",
        owner="",
        captured_at=float(at),
        draws=draws,
    )


def timed(call: Callable[[], list[str]]) -> tuple[float, list[str]]:
    started = time.monotonic()
    result = call()
    return time.monotonic() - started, result
