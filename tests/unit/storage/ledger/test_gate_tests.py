"""The gate's tests: which of them count, and how many rounds have started since the last one."""

import time

from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger

Sessions = sessionmaker[Session]
SET = "digest of a set of held-out questions"
OTHER = "digest of another set"


def test_an_empty_ledger_has_no_tests(sessions: Sessions) -> None:
    with sessions() as s:
        assert ledger.gate_tests.count(s, SET) == 0
        assert ledger.gate_tests.refusals(s, SET) == 0
        assert ledger.gate_tests.rounds_since(s, SET) == 0


def test_refusals_count_from_the_last_promotion(sessions: Sessions) -> None:
    with sessions.begin() as s:
        counts = []
        for number, promoted in enumerate((False, False, True, False, False), start=1):
            add_test(s, f"job {number}", number, promoted=promoted)
            counts.append((ledger.gate_tests.count(s, SET), ledger.gate_tests.refusals(s, SET)))
    assert counts == [(1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]


def test_another_set_of_held_out_questions_has_tests_of_its_own(sessions: Sessions) -> None:
    with sessions.begin() as s:
        add_test(s, "a")
        assert ledger.gate_tests.count(s, SET) == ledger.gate_tests.refusals(s, SET) == 1
        assert ledger.gate_tests.count(s, OTHER) == ledger.gate_tests.refusals(s, OTHER) == 0
        add_test(s, "b", held_out=OTHER)
        add_test(s, "c", held_out=OTHER)
        assert ledger.gate_tests.count(s, SET) == ledger.gate_tests.refusals(s, SET) == 1
        assert ledger.gate_tests.count(s, OTHER) == ledger.gate_tests.refusals(s, OTHER) == 2


def test_an_operator_resets_the_number_of_tests_of_every_set(sessions: Sessions) -> None:
    with sessions.begin() as s:
        add_test(s, "a")
        add_test(s, "b", held_out=OTHER)
        ledger.gate_tests.reset(s)
        for digest in (SET, OTHER):
            assert ledger.gate_tests.count(s, digest) == ledger.gate_tests.refusals(s, digest) == 0
            assert ledger.gate_tests.rounds_since(s, digest) == 0
        add_test(s, "c", version=2)
        assert ledger.gate_tests.count(s, SET) == 1


def test_succeeded_rounds_that_started_after_the_last_test_are_counted(sessions: Sessions) -> None:
    with sessions.begin() as s:
        job(s, "before", "round", "succeeded")
        add_test(s, "before")
        assert ledger.gate_tests.rounds_since(s, SET) == 0
        for name, mode, status in (
            ("one", "round", "succeeded"),
            ("failed", "round", "failed"),
            ("running", "round", "running"),
            ("check", "check", "succeeded"),
            ("two", "round", "succeeded"),
        ):
            job(s, name, mode, status)
        assert ledger.gate_tests.rounds_since(s, SET) == 2
        add_test(s, "two", version=2)
        assert ledger.gate_tests.rounds_since(s, SET) == 0


def test_a_round_that_waited_while_the_test_was_made_counts_when_it_has_run(
    sessions: Sessions,
) -> None:
    with sessions.begin() as s:
        queued = ledger.jobs.create(s, "queued", "round", {})
        add_test(s, "before")
        assert ledger.gate_tests.rounds_since(s, SET) == 0
        queued.status = "succeeded"
        s.flush()
        assert ledger.gate_tests.rounds_since(s, SET) == 0  # a job that has no start is no round
        queued.started_at = time.time()
        s.flush()
        assert ledger.gate_tests.rounds_since(s, SET) == 1


def add_test(
    s: Session, job_id: str, version: int = 1, *, promoted: bool = False, held_out: str = SET
) -> None:
    """Record a test, at a time of its own."""
    ledger.gate_tests.record(s, job_id, version, promoted=promoted, held_out=held_out)
    time.sleep(0.001)


def job(s: Session, id: str, mode: str, status: str) -> None:
    row = ledger.jobs.create(s, id, mode, {})
    row.status = status
    row.started_at = time.time()
    s.flush()
    time.sleep(0.001)
