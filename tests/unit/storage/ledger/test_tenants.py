"""Fair share: no tenant displaces the others, and a new one may have to wait."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from ledgers import captured
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import NotFoundError
from tempo_storage.ledger.models import Question, Tenant

Sessions = sessionmaker[Session]
HONEST = ("ann", "ben", "cem", "dot", "eve")


def ask(s: Session, tenant: str, *questions: str, at: float = 1.0, **options: Any) -> None:
    rows = [
        captured(f"{tenant}-{at}-{n}", question, tenant=tenant, captured_at=at + n / 1e6)
        for n, question in enumerate(questions)
    ]
    ledger.pool.add(s, rows, **options)


def texts(tenant: str, count: int, start: int = 0) -> list[str]:
    return [f"{tenant} {n}" for n in range(start, start + count)]


def owners(s: Session, *, draw: int) -> Counter[str]:
    return Counter(question.owner for question in ledger.pool.next_questions(s, draw))


def test_a_flood_of_one_tenant_does_not_displace_the_pool(sessions: Sessions) -> None:
    with sessions.begin() as s:
        for tenant in HONEST:
            ask(s, tenant, *texts(tenant, 20), keep=100)
        for start in range(0, 420, 42):  # by the invented keys of 50 users: one tenant
            ask(s, "", *texts("flood", 42, start), at=2.0 + start, keep=100)
        held = ledger.tenants.held(s)
        assert held[""] == 25
        assert held.total() == 100
        newest = s.scalars(select(Question).order_by(Question.captured_at.desc()).limit(25))
        assert {row.owner for row in newest} == {""}  # they replaced its own older ones


def test_a_tenant_at_its_share_replaces_its_own_questions_even_while_there_is_room(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        for tenant in HONEST[:3]:
            ask(s, tenant, *texts(tenant, 5), keep=100)
        for start in range(0, 100, 50):
            ask(s, "flood", *texts("flood", 50, start), at=2.0 + start, keep=100)
        assert ledger.tenants.held(s) == {"flood": 25} | dict.fromkeys(HONEST[:3], 5)


def test_new_tenants_take_room_from_the_largest_only_as_they_ask(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "ann", *texts("ann", 100), keep=100)
        assert ledger.tenants.held(s) == {"ann": 100}  # it is alone
        for tenant in HONEST[1:]:
            ask(s, tenant, f"{tenant} 1", at=2.0, keep=100)
        assert ledger.tenants.held(s) == {"ann": 96} | dict.fromkeys(HONEST[1:], 1)
        for tenant in HONEST[1:]:
            ask(s, tenant, *texts(tenant, 20), at=3.0, keep=100)
        assert ledger.tenants.held(s)["ann"] == 100 - 4 * 20  # tenant 1 was among those


@pytest.mark.parametrize(("tenants", "largest"), [(1, 32), (2, 16), (3, 10), (4, 8), (5, 8)])
@pytest.mark.attack(
    "fair share",
    "a tenant with most of the pool",
    promise="it fills at most its share of a draw",
)
def test_a_tenant_fills_its_share_of_a_draw(
    sessions: Sessions, tenants: int, largest: int, seen: Callable[[object], None]
) -> None:
    with sessions.begin() as s:
        for tenant in HONEST[:tenants]:
            ask(s, tenant, *texts(tenant, 200 if tenant == "ann" else 40), at=ord(tenant[0]))
        counts = owners(s, draw=32)
        assert max(counts.values()) == largest
        assert counts.total() == min(32, tenants * largest)
    seen(f"of {tenants} tenants: {dict(counts)}")


def test_a_tenant_that_asked_long_ago_takes_no_share_from_the_others(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "once", at=1.0)
        ask(s, "ben", *texts("ben", 40), at=2.0 + ledger.tenants.WINDOW_SECONDS)
        assert ledger.tenants.allowance(s, 32) == 32
        ask(s, "ann", "again", at=3.0 + ledger.tenants.WINDOW_SECONDS)
        assert ledger.tenants.allowance(s, 32) == 16


def test_each_question_comes_once_before_any_comes_twice_among_unequal_tenants(
    sessions: Sessions,
) -> None:
    draws: Counter[str] = Counter()
    numbers = random.Random(3)
    with sessions.begin() as s:
        for step in range(30):
            tenant = numbers.choice(HONEST)
            ask(s, tenant, *texts(tenant, numbers.randrange(12), 100 * step), at=float(step + 1))
            questions = ledger.pool.next_questions(s, 8)
            assert max(owners(s, draw=8).values(), default=0) <= ledger.tenants.allowance(s, 8)
            ledger.pool.record_draws(s, questions)
            draws.update(q.pool_hash for q in questions)
        size = ledger.pool.size(s)
        for _ in range(size):
            if len(draws) == size:
                break
            before = len(draws)
            questions = ledger.pool.next_questions(s, 8)
            ledger.pool.record_draws(s, questions)
            draws.update(q.pool_hash for q in questions)
            assert len(draws) > before  # no pass is held up
        assert len(draws) == size
        assert max(draws.values()) <= 2  # a later pass began only where nothing was left over


def test_a_question_belongs_to_the_tenant_that_asked_it_first(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "2 + 2", at=1.0)
        ask(s, "ben", "please, 2+2?", "3 + 3", at=2.0)
        assert ledger.tenants.held(s) == {"ann": 1, "ben": 1}
        s.delete(s.get_one(Question, "ann-1.0-0"))
        ask(s, "cem", "2 + 2", at=3.0)
        assert ledger.tenants.held(s) == {"ann": 1, "ben": 1}  # while anybody's row of it is there


def test_the_questions_of_an_erased_tenant_belong_to_the_one_that_asked_next(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "2 + 2", "4 + 4", at=1.0)
        ask(s, "cem", "2 + 2", at=3.0)
        ask(s, "ben", "2 + 2", at=2.0)
        assert ledger.learned.erase(s, "ann") == (2, [])
        assert [row.owner for row in s.scalars(select(Question))] == ["ben", "ben"]


@pytest.mark.attack(
    "fair share",
    "a new tenant asks while there is a quarantine",
    promise="no M-step draws its questions until it asked enough",
)
def test_a_new_tenant_waits_in_quarantine_until_it_has_asked_enough(
    sessions: Sessions, seen: Callable[[object], None]
) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "a 1", "a 2", quarantine=4)
        assert ledger.pool.next_questions(s, 9) == []
        assert (ledger.pool.size(s), ledger.pool.count_new(s, 0)) == (0, 0)
        ask(s, "ann", "a 1", "please, a 2", "a 3", at=2.0, quarantine=4)  # two of them counted
        assert ledger.pool.size(s) == 0
        ask(s, "ann", "a 4", at=3.0, quarantine=4)
        assert ledger.pool.size(s) == 4
        seen(f"0 drawn before the fourth question, {ledger.pool.size(s)} after it")


def test_an_operator_or_a_changed_setting_ends_a_quarantine(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "a 1", quarantine=9)
        ask(s, "ben", "b 1", at=2.0, quarantine=9)
        ledger.tenants.admit(s, "ann")
        assert owners(s, draw=9) == {"ann": 1}
        assert [t.quarantined for t in ledger.tenants.find(s)] == [False, True]
        ask(s, "cem", "c 1", at=3.0)  # the worker runs without the setting now
        assert owners(s, draw=9) == {"ann": 1, "ben": 1, "cem": 1}
        with pytest.raises(NotFoundError, match="nobody"):
            ledger.tenants.admit(s, "nobody")


def test_a_tenant_in_quarantine_cannot_hide_the_questions_of_others(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ask(s, "ann", "2 + 2", quarantine=9)
        ask(s, "ben", "b 1", at=2.0, quarantine=9)
        ledger.tenants.admit(s, "ben")
        ask(s, "ben", "2 + 2", at=3.0, quarantine=9)
        drawn = ledger.pool.next_questions(s, 9)
    assert {row.messages[0]["content"]: row.tenant for row in drawn} == {
        "b 1": "ben",
        "2 + 2": "ben",
    }


def test_the_tenants_that_asked_longest_ago_are_forgotten(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.tenants, "MAX_TENANTS", 3)
    with sessions.begin() as s:
        for at, tenant in enumerate(HONEST):
            ask(s, tenant, tenant, at=float(at + 1))
        assert set(s.scalars(select(Tenant.id))) == set(HONEST[2:])


ROWS = """
    WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 99999)
    INSERT INTO questions (id, content_hash, loose_hash, pool_hash, messages, chat_template_kwargs,
        tenant, owner, captured_at, draws)
    SELECT 'q' || n, printf('%064d', n), '', printf('%064d', n * 7919 % 100000),
        '[{"role": "user", "content": "' || hex(zeroblob(200)) || n || '"}]', '{}',
        'tenant' || n % 5, 'tenant' || n % 5, n, n % 2
    FROM numbers
"""


def test_the_share_holds_quickly_among_100_000_questions(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.execute(text(ROWS))
        for n in range(5):
            s.add(Tenant(id=f"tenant{n}", questions=1, last_asked_at=1e5, quarantined=False))
    with sessions.begin() as s:
        assert least_seconds(lambda: ledger.pool.next_questions(s, 32)) < 5.0
        assert least_seconds(lambda: ledger.pool.count_new(s, 99_900.0)) < 1.0
        assert least_seconds(lambda: ledger.pool.prune(s, 99_000)) < 1.0
        assert ledger.pool.count(s)[1] == 99_000


def least_seconds(call: Any) -> float:
    """Return the processor time of the quickest of three runs."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return min(seconds)
