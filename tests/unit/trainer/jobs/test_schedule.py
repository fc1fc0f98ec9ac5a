"""When a job starts by itself: by counts and times, never against a pause, never beside a job."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import Adapter, File, LabeledExample
from tempo_storage.ledger.sessions import open_database
from tempo_trainer.jobs.schedule import CHECKS_KEPT, Outlook, due, look, start_due_job
from tempo_trainer.worker_settings import WorkerSettings

HOUR = 3600.0
DAILY = WorkerSettings(round_questions=64, recalibrate_hours=24, recalibrate_auroc=0.65)
READY = Outlook(
    now=100 * HOUR,
    paused=False,
    busy=False,
    labeled=True,
    new_questions=64,
    last_job_at=99 * HOUR,
    auroc=0.8,
)


def mode(settings: WorkerSettings = DAILY, **changes: object) -> str | None:
    found = due(replace(READY, **changes), settings)
    return found and found.mode


def test_a_round_starts_with_the_last_question_that_it_waits_for() -> None:
    assert mode(new_questions=63) is None
    assert mode(new_questions=64) == "round"
    assert "64 new questions" in due(READY, DAILY).reason


@pytest.mark.parametrize("held_up", [{"paused": True}, {"busy": True}, {"labeled": False}])
def test_nothing_starts_in_a_pause_beside_a_job_or_without_labels(held_up: dict[str, bool]) -> None:
    assert mode(**held_up) is None
    assert mode(last_job_at=0.0, **held_up) is None


def test_a_check_comes_first_and_in_a_pause_but_beside_no_job() -> None:
    watchful = WorkerSettings(sentinel_seconds=900)
    assert mode(watchful, checked_at=100 * HOUR - 899) == "round"
    late = {"checked_at": 100 * HOUR - 900}
    assert mode(watchful, **late) == "check"
    assert mode(watchful, paused=True, **late) == "check"
    assert mode(watchful, busy=True, **late) is None
    assert mode(watchful, labeled=False, **late) is None
    assert mode(WorkerSettings(sentinel_seconds=0), **late) == "round"
    assert mode(watchful, checked_at=None) == "round"


def test_a_check_that_came_to_nothing_is_tried_again_soon_but_not_at_once() -> None:
    watchful, late = WorkerSettings(sentinel_seconds=900), {"checked_at": 0.0}
    assert mode(watchful, check_ended_at=100 * HOUR - 59, **late) == "round"
    assert mode(watchful, check_ended_at=100 * HOUR - 60, **late) == "check"
    hasty = WorkerSettings(sentinel_seconds=1)
    assert mode(hasty, check_ended_at=100 * HOUR - 1, **late) == "check"


def test_a_job_that_a_pause_holds_keeps_no_check_away(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as s:
        ledger.jobs.create(s, "r", "round", {})
        assert look(s, 5.0).busy
        ledger.training.set_paused(s, True)
        assert not look(s, 5.0).busy
        assert ledger.jobs.runnable(s) == []
        check = ledger.jobs.create(s, "c", "check", {})
        assert ledger.jobs.runnable(s) == [check]
        ledger.training.set_paused(s, False)
        assert [job.id for job in ledger.jobs.runnable(s)] == ["r", "c"]


def test_a_check_is_due_from_the_promotion_on_and_changes_no_other_rule(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        assert look(s, 5.0).checked_at is None
        row = Adapter(version=1, parent=0, status="candidate", job_id="j", sha256="")
        row.checkpoint, row.bytes = "c", 0
        s.add(row)
        s.flush()
        promoted = ledger.versions.promote(s, 1).changed_at
        assert look(s, 5.0).checked_at == promoted
        before = look(s, 5.0)
        for number in range(CHECKS_KEPT + 2):
            job = ledger.jobs.create(s, f"c{number}", "check", {})
            job.status, job.created_at = "succeeded", promoted + number
            job.finished_at = promoted + number + 1000.0
        done = {"checked_at": job.finished_at, "check_ended_at": job.finished_at}
        assert look(s, 5.0) == replace(before, **done)
        gave_way = ledger.jobs.create(s, "gave way", "check", {})
        gave_way.status, gave_way.created_at = "cancelled", promoted + 2000.0
        gave_way.finished_at = promoted + 9999.0
        assert look(s, 5.0) == replace(before, **done | {"check_ended_at": promoted + 9999.0})
        s.delete(gave_way)
        ledger.versions.promote(s, 0)
        ledger.versions.promote(s, 1).changed_at = promoted - 10_000
        for n in range(2):
            ledger.events.add(s, "x", "m", job_id=f"c{n}", level="error" if n else "info")
        ledger.jobs.delete_old(s, "check", keep=CHECKS_KEPT)
        assert len(ledger.jobs.find(s, limit=1000)) == CHECKS_KEPT
        assert [e.job_id for e in ledger.events.find(s) if e.type == "x"] == ["c1"]


def test_zero_switches_a_rule_off() -> None:
    never = WorkerSettings(round_questions=0, recalibrate_hours=0)
    assert mode(never, new_questions=10**6, last_job_at=0.0, auroc=0.5) is None
    assert mode(WorkerSettings(recalibrate_auroc=0), auroc=0.1) == "round"


def test_the_clock_recalibrates_once_a_day_also_when_nobody_asks() -> None:
    idle = {"new_questions": 0}
    assert mode(last_job_at=100 * HOUR - 24 * HOUR + 1, **idle) is None
    assert mode(last_job_at=100 * HOUR - 24 * HOUR, **idle) == "recalibrate"
    assert mode(last_job_at=0.0, **idle) == "recalibrate"


def test_a_critic_that_drifted_is_recalibrated_before_the_next_round() -> None:
    assert mode(auroc=0.64) == "recalibrate"
    assert mode(auroc=0.64, new_questions=63) is None
    assert mode(auroc=0.65) == "round"
    assert mode(auroc=None) == "round"


# What the ledger says ----------------------------------------------------------------------------


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    made = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with made.begin() as s:
        file = File(id="f", filename="x", bytes=1, sha256="", summary={}, created_at=0.0)
        ledger.labeled.add_file(s, file, [labeled("train"), labeled("held_out")])
    yield made
    made.kw["bind"].dispose()


def labeled(split: str) -> LabeledExample:
    return LabeledExample(
        content_hash=split,
        file_id="f",
        messages=[{"role": "user", "content": split}],
        reference=["1"],
        verifier="exact",
        details={},
        split=split,
    )


def ask(sessions: sessionmaker[Session], *numbers: int, at: float) -> None:
    rows = [
        {"id": f"q{n}", "messages": [{"role": "user", "content": f"{n}?"}], "captured_at": at}
        for n in numbers
    ]
    with sessions.begin() as s:
        ledger.questions.add(s, rows)


def start(sessions: sessionmaker[Session]) -> str | None:
    with sessions.begin() as s:
        job = start_due_job(s, WorkerSettings(round_questions=3))
        return job and job.mode


def end_last_job(sessions: sessionmaker[Session], status: str, **result: object) -> float:
    with sessions.begin() as s:
        job = ledger.jobs.newest(s, "round", "recalibrate")
        assert job is not None
        ledger.jobs.finish(s, job.id, status, result=result)
        return job.created_at


def test_a_job_that_starts_by_itself_is_an_ordinary_one_and_says_why(
    sessions: sessionmaker[Session],
) -> None:
    ask(sessions, 1, 2, at=1.0)
    assert start(sessions) is None
    ask(sessions, 3, at=1.0)
    assert start(sessions) == "round"
    assert start(sessions) is None  # it is queued still
    with sessions() as s:
        (job,) = ledger.jobs.find(s)
        (event,) = ledger.events.find(s, job_id=job.id)
    assert (job.status, job.settings["auto_promote"]) == ("queued", True)
    assert event.type == "job.queued"
    assert "by the schedule: 3 new questions since the last round" in event.message


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_round_uses_up_its_questions_however_it_ends(
    sessions: sessionmaker[Session], status: str
) -> None:
    ask(sessions, 1, 2, 3, at=1.0)
    assert start(sessions) == "round"
    began = end_last_job(sessions, status)
    assert start(sessions) is None
    ask(sessions, 1, 2, 3, at=began + 1)  # known questions
    ask(sessions, 4, 5, at=began + 1)
    assert start(sessions) is None
    ask(sessions, 6, at=began + 1)
    assert start(sessions) == "round"


def test_drift_is_recalibrated_once_even_in_vain(sessions: sessionmaker[Session]) -> None:
    ask(sessions, 1, 2, 3, at=1.0)
    start(sessions)
    began = end_last_job(sessions, "succeeded", critic_auroc=0.61)
    ask(sessions, 4, 5, 6, at=began + 1)
    assert start(sessions) == "recalibrate"
    end_last_job(sessions, "succeeded", critic_auroc=0.61)
    assert start(sessions) == "round"


def test_a_pause_is_seen(sessions: sessionmaker[Session]) -> None:
    ask(sessions, 1, 2, 3, at=1.0)
    with sessions.begin() as s:
        ledger.training.set_paused(s, True)
        assert look(s, 5.0).paused
    assert start(sessions) is None
    with sessions.begin() as s:
        ledger.training.set_paused(s, False)
    assert start(sessions) == "round"
