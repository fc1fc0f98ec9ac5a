"""The gate's tests: which of them count, and how many rounds have passed since the last one."""

import time

from ledgers import held_out
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger

Sessions = sessionmaker[Session]


def test_an_empty_ledger_has_no_tests(sessions: Sessions) -> None:
    with sessions() as s:
        assert ledger.gate_tests.count(s) == 0
        assert ledger.gate_tests.refusals(s) == 0
        assert ledger.gate_tests.rounds_since(s) == 0


def test_refusals_count_from_the_last_promotion(sessions: Sessions) -> None:
    with sessions.begin() as s:
        counts = []
        for number, promoted in enumerate((False, False, True, False, False), start=1):
            ledger.gate_tests.record(s, f"job {number}", number, promoted=promoted)
            time.sleep(0.001)
            counts.append((ledger.gate_tests.count(s), ledger.gate_tests.refusals(s)))
    assert counts == [(1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]


def test_new_held_out_questions_start_anew(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add(held_out("1 + 1"))
        s.flush()
        ledger.gate_tests.record(s, "a", 1, promoted=False)
        assert ledger.gate_tests.count(s) == 1
        s.add(held_out("2 + 2"))
        s.flush()
        assert ledger.gate_tests.count(s) == ledger.gate_tests.refusals(s) == 0
        ledger.gate_tests.record(s, "b", 2, promoted=False)
        assert ledger.gate_tests.count(s) == 1


def test_an_operator_starts_anew(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.gate_tests.record(s, "a", 1, promoted=False)
        ledger.gate_tests.start_anew(s)
        assert ledger.gate_tests.count(s) == ledger.gate_tests.refusals(s) == 0
        assert ledger.gate_tests.rounds_since(s) == 0
        ledger.gate_tests.record(s, "b", 2, promoted=False)
        assert ledger.gate_tests.count(s) == 1


def test_succeeded_rounds_after_the_last_test_are_counted(sessions: Sessions) -> None:
    with sessions.begin() as s:
        job(s, "before", "round", "succeeded")
        ledger.gate_tests.record(s, "before", 1, promoted=False)
        assert ledger.gate_tests.rounds_since(s) == 0
        for name, mode, status in (
            ("one", "round", "succeeded"),
            ("failed", "round", "failed"),
            ("running", "round", "running"),
            ("check", "check", "succeeded"),
            ("two", "round", "succeeded"),
        ):
            job(s, name, mode, status)
        assert ledger.gate_tests.rounds_since(s) == 2
        ledger.gate_tests.record(s, "two", 2, promoted=False)
        assert ledger.gate_tests.rounds_since(s) == 0


def job(s: Session, id: str, mode: str, status: str) -> None:
    time.sleep(0.001)
    ledger.jobs.create(s, id, mode, {}).status = status
    s.flush()
    time.sleep(0.001)
