"""The users' sampling: medians over the newest requests of the last 1,000 distinct questions."""

import time
from typing import Any

import pytest
from ledgers import captured
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_storage.ledger.models import Question

Sessions = sessionmaker[Session]
STANDARD = Decoding(temperature=0.6, top_p=0.95, top_k=20)


def ask(s: Session, *texts: str, at: float = 0.0, **fields: Any) -> None:
    rows = [captured(f"q{at}-{n}", text, captured_at=at, **fields) for n, text in enumerate(texts)]
    ledger.pool.add(s, rows)


def texts(s: Session, count: int) -> list[str]:
    return [messages[-1]["content"] for messages in ledger.pool.newest_messages(s, count)]


def test_without_questions_the_users_sampling_is_the_servers(sessions: Sessions) -> None:
    with sessions() as s:
        assert ledger.pool.users_decoding(s, STANDARD) == STANDARD


def test_the_users_sampling_is_the_median_and_a_silent_request_counts_as_the_servers(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        ask(s, "1", at=1.0)
        assert ledger.pool.users_decoding(s, STANDARD) == STANDARD
        ask(s, "2", at=2.0, temperature=0.1, top_p=1.0, top_k=-1)
        assert ledger.pool.users_decoding(s, STANDARD) == Decoding(0.1, 0.95, 20)
        ask(s, "3", at=3.0, temperature=0.2, top_k=0)
        assert ledger.pool.users_decoding(s, STANDARD) == Decoding(0.2, 0.95, 0)


def test_of_an_even_split_between_greedy_and_sampled_requests_the_sampled_one_is_taken(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        ask(s, "1", "2", at=1.0, temperature=0.0, top_k=1)
        assert ledger.pool.users_decoding(s, PLAIN).is_greedy
        ask(s, "3", "4", at=2.0, temperature=0.7, top_k=50)
        assert ledger.pool.users_decoding(s, PLAIN) == Decoding(0.7, 1.0, 50)
        ask(s, "5", at=3.0, temperature=0.0, top_k=1)
        assert ledger.pool.users_decoding(s, PLAIN) == Decoding(0.0, 1.0, 1)


@pytest.mark.parametrize(
    ("limits", "default", "median"),
    [
        ([None, 8, 16], None, 16),
        ([None, None, 16], None, None),
        ([None, 16], None, 16),
        ([None], 64, 64),
        ([None, 8, 16], 4, 8),
    ],
)
def test_a_request_without_a_limit_of_tokens_counts_as_unlimited(
    limits: list[int | None], default: int | None, median: int | None, sessions: Sessions
) -> None:
    with sessions.begin() as s:
        for n, limit in enumerate(limits):
            ask(s, str(n), at=float(n), max_tokens=limit)
        users = ledger.pool.users_decoding(s, Decoding(max_tokens=default))
    assert users.max_tokens == median


def test_a_probe_that_repeats_one_question_counts_once_with_its_newest_request(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        ask(s, "a", at=1.0, temperature=0.8)
        ask(s, "b", at=2.0, temperature=0.8)
        ask(s, "ping", at=3.0, temperature=0.3)
        ask(s, *["ping"] * 1500, at=4.0, temperature=0.0)
        assert ledger.pool.users_decoding(s, PLAIN) == Decoding(temperature=0.8)
        assert set(texts(s, 9)) == {"a", "b", "ping"}
        assert texts(s, 2) == ["ping", "b"]
        ask(s, "a", "b", at=5.0, temperature=0.3)
        assert ledger.pool.users_decoding(s, PLAIN) == Decoding(temperature=0.3)


def test_only_the_last_thousand_distinct_questions_say_how_users_sample(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.pool.RECENT_QUESTIONS == 1000
    monkeypatch.setattr(ledger.pool, "RECENT_QUESTIONS", 2)
    with sessions.begin() as s:
        ask(s, "1", "2", "3", at=1.0, temperature=0.0)
        ask(s, "4", "5", at=2.0, temperature=1.0)
        ask(s, "5", at=3.0, temperature=1.0)
        assert ledger.pool.users_decoding(s, STANDARD).temperature == 1.0


def test_questions_without_text_say_how_users_sample_and_have_no_messages(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        ask(s, "with text", at=1.0, temperature=0.5)
        hashed = captured("hashed", "", captured_at=2.0, temperature=0.0, content_hash="0" * 64)
        ledger.pool.add(s, [hashed | {"messages": []}])
        assert texts(s, 9) == ["with text"]
        assert ledger.pool.users_decoding(s, PLAIN).temperature == 0.5
        assert ledger.pool.users_decoding(s, GREEDY).temperature == 0.5


def test_a_record_of_version_0_1_is_read_and_its_odd_values_are_left_out(
    sessions: Sessions,
) -> None:
    old = {"temperature": 0.5, "top_p": "0.9", "top_k": 20, "max_output_tokens": 8, "n": 2}
    with sessions.begin() as s:
        ask(s, "old", at=1.0, sampling=old)
        ask(s, "odd", at=2.0, sampling=[1], temperature=0.25)
        rows = list(s.scalars(select(Question).order_by(Question.captured_at)))
    values = [(row.temperature, row.top_p, row.top_k, row.max_tokens) for row in rows]
    assert values == [(0.5, None, 20, 8), (0.25, None, None, None)]


def test_the_users_sampling_is_read_quickly_from_40_000_rows(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all(
            Question(
                id=str(n),
                content_hash=str(n % 20_000),
                loose_hash=str(n % 20_000),
                pool_hash=str(n % 20_000),
                messages=[{"role": "user", "content": str(n)}],
                chat_template_kwargs={},
                tenant="",
                owner="",
                captured_at=float(n),
                temperature=0.0 if n < 39_500 else 1.0,
            )
            for n in range(40_000)
        )
    with sessions() as s:
        started = time.monotonic()
        assert ledger.pool.users_decoding(s, PLAIN).temperature == 1.0
        assert texts(s, 3) == ["39999", "39998", "39997"]
        assert time.monotonic() - started < 2.0
