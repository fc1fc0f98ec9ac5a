"""Rows: pointer, questions, leases, settings."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import ConflictError, LeaseLostError, NotFoundError, SettingsError
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.migrations import migrate
from tempo_storage.ledger.models import Adapter, File, LabeledExample
from tempo_storage.ledger.sessions import open_database
from tempo_storage.questions import content_hash, is_held_out
from tempo_storage.settings import StorageSettings, refuse_unknown_variables


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    made = open_database(f"sqlite:///{tmp_path / 'nested' / 'tempo.db'}")
    yield made
    made.kw["bind"].dispose()


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def captured(id: str, text: str) -> dict[str, Any]:
    return {"id": id, "messages": user(text), "captured_at": time.time()}


def candidate(version: int, status: str = "candidate") -> Adapter:
    return Adapter(
        version=version,
        status=status,
        parent=0,
        job_id="j",
        checkpoint="",
        sha256="",
        bytes=1,
        report={},
        created_at=0.0,
    )


def labeled(text: str, split: str = "train") -> LabeledExample:
    return LabeledExample(
        content_hash=content_hash(user(text)),
        file_id="f",
        messages=user(text),
        reference=["4"],
        verifier="exact",
        details={},
        split=split,
    )


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'a.db'}")
    assert migrate(engine) == ["m001_initial", "m002_lineage", "m003_serving_sequence"]
    assert migrate(engine) == []
    engine.dispose()


def test_reading_waits_for_no_writer(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as writing:
        ledger.events.add(writing, "x", "under way")
        writing.flush()
        began = time.monotonic()
        with sessions() as s:
            assert ledger.events.find(s) == []
        assert time.monotonic() - began < 1
    with sessions() as s:
        assert [event.message for event in ledger.events.find(s)] == ["under way"]


def test_a_promotion_moves_the_pointer_and_a_rollback_returns(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
    with sessions.begin() as s:
        ledger.versions.promote(s, 1, expected_current=0)
        ledger.versions.promote(s, 2, expected_current=1)
    with sessions.begin() as s:
        assert ledger.versions.serving(s).version == 2
        assert ledger.versions.adapter(s, 1).status == "retired"
        assert ledger.versions.roll_back(s).version == 1
        assert ledger.versions.serving(s).sequence == 3
        assert ledger.versions.roll_back(s, to=0).version == 0


def test_a_second_rollback_goes_further_back_and_never_forward(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2), candidate(3)])
        versions_of = {row.version: row for row in s.new}
        versions_of[2].parent, versions_of[3].parent = 1, 2
        s.flush()
        for version in (1, 2, 3):
            ledger.versions.promote(s, version)
        assert [ledger.versions.roll_back(s).version for _ in range(3)] == [2, 1, 0]
        with pytest.raises(ConflictError, match="the base serves, there is nothing to roll back"):
            ledger.versions.roll_back(s)


def test_a_promotion_over_a_changed_pointer_is_refused(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        s.add(candidate(1))
    with sessions.begin() as s, pytest.raises(ConflictError, match="tempo-v0 is serving"):
        ledger.versions.promote(s, 1, expected_current=7)


def test_rejected_needs_force_and_corrupt_never_serves(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1, "rejected"), candidate(2)])
        s.flush()
        ledger.versions.mark_corrupt(s, 2, "flipped byte")
    with sessions.begin() as s:
        with pytest.raises(ConflictError, match="force=true"):
            ledger.versions.promote(s, 1)
        with pytest.raises(ConflictError, match="corrupt"):
            ledger.versions.promote(s, 2, force=True)
        with pytest.raises(NotFoundError):
            ledger.versions.promote(s, 9)
        assert ledger.versions.promote(s, 1, force=True).version == 1


def test_a_served_version_found_corrupt_is_left_for_the_sound_one_before_it(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
        sequence = ledger.versions.promote(s, 2).sequence
        ledger.versions.mark_corrupt(s, 2, "flipped byte")
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous, pointer.sequence) == (1, 1, sequence + 1)
        assert pointer.reason == "flipped byte"
        ledger.versions.mark_corrupt(s, 1, "cut short")
        assert (pointer.version, pointer.previous) == (ledger.versions.BASE, ledger.versions.BASE)
        with pytest.raises(ConflictError, match="corrupt, promote another: cut short"):
            ledger.versions.promote(s, 1)


def test_the_version_before_the_serving_one_is_forgotten_when_it_is_corrupt(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(1), candidate(2)])
        s.flush()
        ledger.versions.promote(s, 1)
        ledger.versions.promote(s, 2)
        ledger.versions.mark_corrupt(s, 1, "flipped byte")
        pointer = ledger.versions.serving(s)
        assert (pointer.version, pointer.previous) == (2, 2)


def test_gate_and_sentinel_share_no_question_unless_there_are_few(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([labeled(f"{n} + {n}", "held_out") for n in range(20)])
        s.add(labeled("1 - 1", "train"))
    with sessions.begin() as s:
        gate, which = ledger.labeled.held_out(s, "gate", most=512)
        assert gate == ledger.labeled.held_out(s, "sentinel", most=512)[0]
        assert (len(gate), which) == (20, "all 20, a half has fewer than 64")
        s.add_all([labeled(f"{n} + {n}", "held_out") for n in range(20, 200)])
    with sessions.begin() as s:
        halves = [
            ledger.labeled.held_out(s, reader, most=512)[0] for reader in ("gate", "sentinel")
        ]
        gate, sentinel = ({e.content_hash for e in half} for half in halves)
        assert (len(gate | sentinel), gate & sentinel) == (200, set())
        assert min(len(gate), len(sentinel)) > 64
        few, which = ledger.labeled.held_out(s, "gate", most=5)
        assert (len(few), {e.content_hash for e in few} < gate) == (5, True)
        assert which == "the gate's half of 200"


def test_what_serves_drains_or_may_be_returned_to_is_in_use(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        s.add_all([candidate(n) for n in range(1, 9)])
        s.flush()
        for version in range(1, 8):
            ledger.versions.adapter(s, version).parent = version - 1
            ledger.versions.promote(s, version)
        assert ledger.versions.in_use(s) == {8, 7, 6}  # the candidate, serving, previous
        s.add_all([candidate(n) for n in range(9, 13)])
        assert ledger.versions.in_use(s) == {12, 11, 10, 7, 6}  # of candidates the three newest
        for version in range(9, 13):
            ledger.versions.adapter(s, version).status = "rejected"
        ledger.versions.promote(s, 5)
        assert ledger.versions.in_use(s) == {8, 7, 5, 4}  # 4 is where the sentinel would return to
        held = {"held": ["tempo-v0", "tempo-v2", "tempo-t9"]}
        ledger.versions.acknowledge(s, "p", version=3, sequence=1, counters=held)
        assert ledger.versions.in_use(s) == {8, 7, 5, 4, 3, 2, 0}
        ledger.versions.adapter(s, 4).status = "corrupt"
        assert ledger.versions.sound_ancestor(s, 5) == 3


def test_what_was_swept_is_never_promoted(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        s.add(candidate(1))
        s.flush()
        ledger.versions.adapter(s, 1).report = {"swept": "beyond 20 versions"}
        with pytest.raises(ConflictError, match="tempo-v1 was swept"):
            ledger.versions.promote(s, 1, force=True)


def test_a_redelivered_question_is_stored_once(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        assert ledger.questions.add(s, [captured("a", "1+1"), captured("b", "2+2")]) == 2
    with sessions.begin() as s:
        assert ledger.questions.add(s, [captured("a", "1+1"), captured("c", " 1+1 ")]) == 1
        assert ledger.questions.count(s) == (3, 2)
        assert ledger.pool.distinct_hashes(s) == [
            content_hash(user("1+1")),
            content_hash(user("2+2")),
        ]


def test_a_labeled_question_never_enters_the_pool(sessions: sessionmaker[Session]) -> None:
    file = File(id="f", filename="x", bytes=1, sha256="", summary={}, created_at=0.0)
    with sessions.begin() as s:
        ledger.questions.add(s, [captured("a", "1+1"), captured("b", "2+2")])
        ledger.labeled.add_file(s, file, [labeled("2+2")])
    with sessions.begin() as s:
        assert ledger.questions.add(s, [captured("c", "２+2")]) == 0
        assert ledger.pool.distinct_hashes(s) == [content_hash(user("1+1"))]


def test_a_stale_epoch_cannot_commit(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, "trainer", "one", 0.01) == 1
    time.sleep(0.02)
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, "trainer", "two", 30.0) == 2
        assert ledger.leases.acquire(s, "trainer", "three", 30.0) is None
        ledger.leases.assert_held(s, "trainer", 2)
        with pytest.raises(LeaseLostError):
            ledger.leases.assert_held(s, "trainer", 1)
        with pytest.raises(LeaseLostError):
            ledger.leases.renew(s, "trainer", 1, 30.0)
        ledger.leases.release(s, "trainer", 2)
        assert ledger.leases.acquire(s, "trainer", "three", 30.0) == 3


def test_a_misspelt_variable_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="did you mean TEMPO_REDIS_URL"):
        refuse_unknown_variables(StorageSettings, environ={"TEMPO_REDIS_URI": "x", "HOME": "y"})
    refuse_unknown_variables(StorageSettings, environ={"TEMPO_DATA_DIR": "x"})


def test_one_question_in_five_is_held_out() -> None:
    hashes = [content_hash(user(f"question {i}")) for i in range(2000)]
    assert 0.17 < sum(map(is_held_out, hashes)) / 2000 < 0.23
    assert content_hash(user("Ａ  b")) == content_hash(user("a B "))
