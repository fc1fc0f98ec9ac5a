"""An erasure reaches questions on their way, and those that were set aside."""

import time
from typing import Any

import pytest
from ledgers import candidate, captured
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import DeadLetter, Question

ANN, BOB = "a" * 16, "b" * 16


def test_a_question_that_was_on_its_way_is_not_stored_and_later_ones_are(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        erased_at = ledger.erasures.record(s, ANN)
    rows = [
        captured("before", "1", tenant=ANN, captured_at=erased_at - 1),
        captured("after", "2", tenant=ANN, captured_at=erased_at + 1),
        captured("other", "3", tenant=BOB, captured_at=erased_at - 1),
    ]
    with sessions.begin() as s:
        assert ledger.pool.add(s, rows) == 2
        assert {row.id for row in s.query(Question)} == {"after", "other"}


def test_the_users_without_a_key_are_one_tenant(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        erased_at = ledger.erasures.record(s, "")
        rows = [captured("a", "1", captured_at=erased_at - 1), captured("b", "2", tenant=BOB)]
        assert ledger.pool.add(s, rows) == 1


def test_entries_set_aside_go_with_their_tenant_and_so_do_those_that_name_none(
    sessions: sessionmaker[Session],
) -> None:
    entries: dict[str, Any] = {
        "ann": {"tenant": ANN, "text": "x"},
        "bob": {"tenant": BOB},
        "cut": {"text": "y" * 70_000, "tenant": BOB},
        "odd": {"tenant": 5},
    }
    with sessions.begin() as s:
        for entry_id, entry in entries.items():
            ledger.dead_letters.add(s, entry_id, entry, reason="KeyError")
    with sessions.begin() as s:
        assert ledger.dead_letters.erase(s, ANN) == 3
        assert [row.entry_id for row in s.query(DeadLetter)] == ["bob"]


def test_the_age_of_an_entry_set_aside_counts_from_its_capture(
    sessions: sessionmaker[Session],
) -> None:
    now = time.time()
    entries: dict[str, Any] = {
        "old": {"captured_at": now - 100},
        "new": {"captured_at": now},
        "odd": {"captured_at": "soon"},
        "cut": {"text": "y" * 70_000, "captured_at": now - 100},
    }
    with sessions.begin() as s:
        for entry_id, entry in entries.items():
            ledger.dead_letters.add(s, entry_id, entry, reason="KeyError")
        assert ledger.dead_letters.expire(s, now - 50) == 1
        assert ledger.dead_letters.count(s) == 3
        assert ledger.dead_letters.expire(s, now + 50) == 3


def test_an_erased_entry_is_not_set_aside_either(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        ledger.erasures.record(s, ANN)
        ledger.dead_letters.add(s, "1", {"tenant": ANN, "captured_at": "soon"}, reason="TypeError")
        ledger.dead_letters.add(s, "2", {"tenant": ANN, "captured_at": 1.0}, reason="KeyError")
        assert ledger.dead_letters.count(s) == 0


def test_a_reader_sees_each_erasure_once_and_only_the_last_one_of_a_tenant(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        first = ledger.erasures.record(s, ANN)
        second = ledger.erasures.record(s, BOB)
        assert ledger.erasures.since(s, 0.0) == {ANN: first, BOB: second}
        again = ledger.erasures.record(s, ANN)
        assert ledger.erasures.since(s, second) == {ANN: again}
        assert ledger.erasures.since(s, again) == {}


def test_a_rollback_leads_to_the_nearest_sound_version_that_did_not_learn(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2, parent=1, status="rejected"), candidate(3, parent=2)])
        s.flush()
        ledger.versions.promote(s, 3)
        targets = [
            ledger.versions.rollback_from(s, unwanted) for unwanted in ([], [2], [3], [1, 3])
        ]
    assert targets == [None, None, 1, 0]


def test_no_error_of_a_statement_shows_its_parameters(sessions: sessionmaker[Session]) -> None:
    canary = "canary-4711"
    with pytest.raises(SQLAlchemyError) as caught, sessions.begin() as s:
        s.add_all([Question(id="a"), DeadLetter(entry_id=canary, reason=canary, entry=canary)])
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    assert canary not in shown
    assert "parameters hidden" in shown
