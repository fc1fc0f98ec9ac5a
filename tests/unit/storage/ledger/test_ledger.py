"""Sessions, questions, held-out examples, job results and leases in the ledger."""

import time
from pathlib import Path

import pytest
from ledgers import captured, labeled, labeled_file, user
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import JobResult
from tempo_storage.ledger.sessions import open_database
from tempo_storage.question_hash import content_hash, is_for_sentinel, is_held_out

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
        hashes = [content_hash(user("1+1")), content_hash(user("2+2"))]
        assert ledger.pool.distinct_hashes(s) == hashes


def test_a_labeled_question_never_enters_the_pool(sessions: Sessions) -> None:
    with sessions.begin() as s:
        ledger.pool.add(s, [captured("a", "1+1"), captured("b", "2+2")])
        ledger.labeled.add_file(s, labeled_file(), [labeled("2+2")])
    with sessions.begin() as s:
        assert ledger.pool.add(s, [captured("c", "２+2")]) == 0
        assert ledger.pool.distinct_hashes(s) == [content_hash(user("1+1"))]


def test_one_question_in_five_is_held_out_and_each_half_of_them_has_one_reader() -> None:
    hashes = [content_hash(user(f"question {i}")) for i in range(2000)]
    held_out = [h for h in hashes if is_held_out(h)]
    assert 0.17 < len(held_out) / 2000 < 0.23
    assert 0.4 < sum(map(is_for_sentinel, held_out)) / len(held_out) < 0.6


def test_gate_and_sentinel_share_no_question_unless_there_are_few(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([labeled(f"{n} + {n}", "held_out") for n in range(20)])
        s.add(labeled("1 - 1", "train"))
    with sessions.begin() as s:
        gate, note = ledger.labeled.held_out(s, "gate", limit=512)
        assert gate == ledger.labeled.held_out(s, "sentinel", limit=512)[0]
        assert (len(gate), note) == (20, "all 20, a half has fewer than 64")
        s.add_all([labeled(f"{n} + {n}", "held_out") for n in range(20, 200)])
    with sessions.begin() as s:
        gate = ledger.labeled.held_out(s, "gate", limit=512)[0]
        sentinel = ledger.labeled.held_out(s, "sentinel", limit=512)[0]
        hashes = {e.content_hash for e in gate}
        assert hashes.isdisjoint(e.content_hash for e in sentinel)
        assert len(gate) + len(sentinel) == 200
        assert min(len(gate), len(sentinel)) > 64


def test_the_same_few_held_out_questions_are_read_each_time(sessions: Sessions) -> None:
    with sessions.begin() as s:
        s.add_all([labeled(f"{n} + {n}", "held_out") for n in range(200)])
        every = ledger.labeled.held_out(s, "gate", limit=512)[0]
        few, note = ledger.labeled.held_out(s, "gate", limit=5)
        assert few == sorted(every, key=lambda e: e.content_hash)[:5]
        assert note == "the gate's half of 200"


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
