"""Sessions, questions, job results and leases in the ledger."""

import time
from pathlib import Path

import pytest
from ledgers import captured, labeled, labeled_file, user
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import JobResult
from tempo_storage.ledger.sessions import open_database
from tempo_storage.question_hash import content_hash

Sessions = sessionmaker[Session]


def test_the_directory_of_a_new_ledger_is_created(tmp_path: Path) -> None:
    made = open_database(f"sqlite:///{tmp_path / 'nested' / 'tempo.db'}")
    with made() as s:
        assert ledger.training.get(s).paused is False
    made.kw["bind"].dispose()


def test_a_reader_waits_for_no_writer(sessions: Sessions) -> None:
    with sessions.begin() as writing:
        ledger.events.add(writing, "x", "under way")
        writing.flush()
        began = time.monotonic()
        with sessions() as s:
            assert ledger.events.find(s) == []
        assert time.monotonic() - began < 1
    with sessions() as s:
        assert [event.message for event in ledger.events.find(s)] == ["under way"]


# Questions ---------------------------------------------------------------------------------------


def test_a_redelivered_question_is_stored_once(sessions: Sessions) -> None:
    with sessions.begin() as s:
        assert ledger.pool.add(s, [captured("a", "1+1"), captured("b", "2+2")]) == 2
    with sessions.begin() as s:
        assert ledger.pool.add(s, [captured("a", "1+1"), captured("c", " 1+1 ")]) == 1
        assert ledger.pool.count(s) == (3, 2)
        assert [row.id for row in ledger.pool.next_questions(s, 9)] == ["b", "a"]


def test_a_labeled_question_never_enters_the_pool(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.pool.add(s, [captured("a", "1+1"), captured("b", "2+2")])
        ledger.labeled.add_file(s, labeled_file(), [labeled("2+2")])
    with sessions.begin() as s:
        assert ledger.pool.add(s, [captured("c", "２+2")]) == 0
        (question,) = ledger.pool.next_questions(s, 9)
        assert question.content_hash == content_hash(user("1+1"))


# Jobs and leases ---------------------------------------------------------------------------------


def test_the_result_of_a_job_is_read_as_it_was_written(sessions: Sessions) -> None:
    result = JobResult(
        report={"summary": "better"},
        checkpoint="c",
        sequence=3,
        auroc=0.75,
        checked_version=2,
        below_base=False,
    )
    with sessions.begin() as s:
        ledger.training.lock(s)
        job = ledger.jobs.queue(s, "round", {"max_steps": 1}, message="by request")
        ledger.jobs.finish(s, job.id, "succeeded", result=result)
    with sessions() as s:
        assert ledger.jobs.get(s, job.id).end == result
        assert [event.message for event in ledger.events.find(s, job_id=job.id)] == ["by request"]


def test_a_stale_epoch_cannot_commit(sessions: Sessions) -> None:
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, "one", 0.01) == 1
    time.sleep(0.02)
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, "two", 30.0) == 2
        assert ledger.leases.acquire(s, "three", 30.0) is None
    with ledger.leases.fenced(sessions, 2) as s:
        ledger.events.add(s, "x", "committed")
    with (
        pytest.raises(LeaseLostError, match="is at epoch 2, not 1; commit refused"),
        ledger.leases.fenced(sessions, 1) as s,
    ):
        ledger.events.add(s, "x", "never committed")
    with sessions.begin() as s:
        assert [event.message for event in ledger.events.find(s)] == ["committed"]
        with pytest.raises(LeaseLostError, match="is at epoch 2, not 1; stop training here"):
            ledger.leases.renew(s, 1, 30.0)
        ledger.leases.release(s, 2)
        assert ledger.leases.acquire(s, "three", 30.0) == 3
