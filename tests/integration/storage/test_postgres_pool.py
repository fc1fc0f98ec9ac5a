"""The pool on PostgreSQL: shares hold there, too, and its refusals set single entries aside."""

import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from ledgers import captured, opened
from postgres import postgres_server
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import DeadLetter, Question
from tempo_trainer.worker.stream_reader import StreamReader

pytestmark = [pytest.mark.service, pytest.mark.needs("postgresql")]


@pytest.fixture(scope="module")
def sessions() -> Iterator[sessionmaker[Session]]:
    with (
        postgres_server(password=secrets.token_hex(8)) as postgres,
        opened(postgres.create(f"ledger_{secrets.token_hex(4)}")) as made,
    ):
        yield made


class Stream:
    """A stream of these entries."""

    def __init__(self, *questions: dict[str, Any]) -> None:
        self.entries = [(str(number), question) for number, question in enumerate(questions)]

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        return self.entries

    def acknowledge(self, entry_ids: list[str]) -> None:
        assert entry_ids == [entry_id for entry_id, _ in self.entries]


def test_a_share_holds_in_the_pool_and_in_a_draw(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        for tenant in ("ann", "ben", "cem"):
            rows = [captured(f"{tenant}{n}", f"{tenant} {n}", tenant=tenant) for n in range(10)]
            ledger.pool.add(s, rows, keep=40)
        flood = [captured(f"f{n}", f"flood {n}", tenant="") for n in range(200)]
        for start in range(0, 200, 50):
            ledger.pool.add(s, flood[start : start + 50], keep=40)
        assert ledger.tenants.held(s) == {"": 10, "ann": 10, "ben": 10, "cem": 10}
        questions = ledger.pool.next_questions(s, 20)
        assert max(Counter(row.owner for row in questions).values()) == 5
        ledger.pool.record_draws(s, questions)
        later = ledger.pool.next_questions(s, 20)
        assert {row.id for row in later}.isdisjoint(row.id for row in questions)
        ledger.pool.prune(s, 8)
        assert ledger.pool.count(s) == (8, 8)
        ledger.pool.add(s, [captured("new", "new one", tenant="dot")], quarantine=3)
        assert ledger.pool.count_new(s, 0) == ledger.pool.size(s) == 8
        ledger.pool.add(s, [captured("again", "new one", tenant="eve")])
        assert ledger.learned.erase(s, "dot") == (1, [])
        assert ledger.tenants.held(s)["eve"] == 1  # the question belongs to the next one


BAD = [
    pytest.param({"id": "q\0"}, id="NUL in an id"),
    pytest.param({"tenant": "t\0"}, id="NUL in a tenant"),
    pytest.param({"id": "\ud800"}, id="half a surrogate pair in an id"),
    pytest.param({"messages": [], "content_hash": "h\0"}, id="NUL in a hash"),
]


@pytest.mark.parametrize("bad", BAD)
def test_an_entry_that_postgresql_refuses_is_set_aside(
    sessions: sessionmaker[Session], bad: dict[str, Any]
) -> None:
    with sessions.begin() as s:
        for row in s.scalars(select(DeadLetter)):
            s.delete(row)
    good = f"q{secrets.token_hex(4)}"
    stream: Any = Stream(captured("q", "1 + 1") | bad, captured(good, f"{good} + 2"))
    assert StreamReader(stream, sessions, keep=100).step() == 0.0
    with sessions() as s:
        assert ledger.dead_letters.count(s) == 1


def test_text_with_nul_and_huge_numbers_is_stored_as_it_is(
    sessions: sessionmaker[Session],
) -> None:
    odd = captured("odd", "a\0b", top_k=10**30, max_tokens=2**40, temperature=1e300)
    stream: Any = Stream(odd)
    assert StreamReader(stream, sessions, keep=100).step() == 0.0
    with sessions() as s:
        assert s.get_one(Question, "odd").top_k is None
