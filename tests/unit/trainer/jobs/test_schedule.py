"""A job starts by itself by counts and times: never against a pause, never beside another job."""

from dataclasses import replace

import pytest
from ledgers import candidate, captured, held_out, labeled, labeled_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.ledger.models import JobResult
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
    job = due(replace(READY, **changes), settings)
    return job and job.mode


def test_a_round_starts_with_the_sixty_fourth_new_question() -> None:
    assert mode(new_questions=63) is None
    assert mode(new_questions=64) == "round"
    assert "64 new questions" in due(READY, DAILY).reason


@pytest.mark.parametrize("obstacle", [{"paused": True}, {"busy": True}, {"labeled": False}])
def test_no_training_starts_in_a_pause_beside_a_job_or_without_labels(
    obstacle: dict[str, bool],
) -> None:
    assert mode(**obstacle) is None
    assert mode(last_job_at=0.0, **obstacle) is None


def test_a_check_comes_before_training_and_in_a_pause_but_beside_no_job() -> None:
    watchful = WorkerSettings(sentinel_seconds=900)
    assert mode(watchful, checked_at=100 * HOUR - 899) == "round"
    late = {"checked_at": 100 * HOUR - 900}
    assert mode(watchful, **late) == "check"
    assert mode(watchful, paused=True, **late) == "check"
    assert mode(watchful, busy=True, **late) is None
    assert mode(watchful, labeled=False, **late) is None
    assert mode(WorkerSettings(sentinel_seconds=0), **late) == "round"
    assert mode(watchful, checked_at=None) == "round"


def test_a_check_that_did_not_finish_is_tried_again_after_a_minute() -> None:
    watchful = WorkerSettings(sentinel_seconds=900)
    late = {"checked_at": 0.0}
    assert mode(watchful, check_ended_at=100 * HOUR - 59, **late) == "round"
    assert mode(watchful, check_ended_at=100 * HOUR - 60, **late) == "check"
    hasty = WorkerSettings(sentinel_seconds=1)
    assert mode(hasty, check_ended_at=100 * HOUR - 1, **late) == "check"


def test_a_job_that_a_pause_holds_does_not_keep_checks_away(
    sessions: sessionmaker[Session],
) -> None:
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


def test_checks_count_from_the_promotion_and_change_no_other_rule(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as s:
        assert look(s, 5.0).checked_at is None
        s.add(candidate(1))
        s.flush()
        promoted = ledger.versions.promote(s, 1).changed_at
        assert look(s, 5.0).checked_at == promoted
        before = look(s, 5.0)
        for number in range(2):
            job = ledger.jobs.create(s, f"c{number}", "check", {})
            job.status = "succeeded"
            job.created_at = promoted + number
            job.finished_at = promoted + number + 1000.0
        done = {"checked_at": job.finished_at, "check_ended_at": job.finished_at}
        assert look(s, 5.0) == replace(before, **done)
        gave_way = ledger.jobs.create(s, "gave way", "check", {})
        gave_way.status = "cancelled"
        gave_way.created_at = promoted + 2000.0
        gave_way.finished_at = promoted + 9999.0
        assert look(s, 5.0) == replace(before, **done | {"check_ended_at": promoted + 9999.0})


def test_only_the_newest_checks_are_kept_and_the_errors_of_all(
    ready: sessionmaker[Session],
) -> None:
    with ready.begin() as s:
        for number in range(CHECKS_KEPT + 2):
            check = ledger.jobs.create(s, f"c{number}", "check", {})
            check.status = "succeeded"
            check.created_at = float(number)
        for number, level in enumerate(("info", "error")):
            ledger.events.add(s, "x", "m", job_id=f"c{number}", level=level)
    ask(ready, 1, 2, 3, at=1.0)
    assert start(ready) == "round"
    with ready() as s:
        assert len(ledger.jobs.find(s, modes=("check",), limit=1000)) == CHECKS_KEPT
        assert [e.job_id for e in ledger.events.find(s) if e.type == "x"] == ["c1"]


def test_zero_switches_a_rule_off() -> None:
    never = WorkerSettings(round_questions=0, recalibrate_hours=0)
    assert mode(never, new_questions=10**6, last_job_at=0.0, auroc=0.5) is None
    assert mode(WorkerSettings(recalibrate_auroc=0), auroc=0.1) == "round"


def test_the_critic_is_recalibrated_once_a_day_even_if_nobody_asks() -> None:
    idle = {"new_questions": 0}
    assert mode(last_job_at=100 * HOUR - 24 * HOUR + 1, **idle) is None
    assert mode(last_job_at=100 * HOUR - 24 * HOUR, **idle) == "recalibrate"
    assert mode(last_job_at=0.0, **idle) == "recalibrate"


def test_a_critic_that_drifted_is_recalibrated_before_the_next_round() -> None:
    assert mode(auroc=0.64) == "recalibrate"
    assert mode(auroc=0.64, new_questions=63) is None
    assert mode(auroc=0.65) == "round"
    assert mode(auroc=None) == "round"


# Facts from the ledger ----------------------------------------------------------------------------


@pytest.fixture
def ready(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """A ledger with labeled questions of both splits."""
    with sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file(), [])
        s.add_all([labeled("1 + 1"), held_out("2 + 2")])
    return sessions


def ask(sessions: sessionmaker[Session], *numbers: int, at: float) -> None:
    rows = [captured(f"q{n}-{at}", f"{n}?", captured_at=at) for n in numbers]
    with sessions.begin() as s:
        ledger.pool.add(s, rows)


def start(sessions: sessionmaker[Session]) -> str | None:
    with sessions.begin() as s:
        job = start_due_job(s, WorkerSettings(round_questions=3))
        return job and job.mode


def end_last_job(
    sessions: sessionmaker[Session], status: str, *, auroc: float | None = None
) -> float:
    with sessions.begin() as s:
        job = ledger.jobs.newest(s, "round", "recalibrate")
        assert job is not None
        ledger.jobs.finish(s, job.id, status, result=JobResult(report={}, auroc=auroc))
        return job.created_at


def test_a_job_that_starts_by_itself_is_an_ordinary_one_and_says_why(
    ready: sessionmaker[Session],
) -> None:
    ask(ready, 1, 2, at=1.0)
    assert start(ready) is None
    ask(ready, 3, at=1.0)
    assert start(ready) == "round"
    assert start(ready) is None  # it is queued still
    with ready() as s:
        (job,) = ledger.jobs.find(s)
        (event,) = ledger.events.find(s, job_id=job.id)
    assert (job.status, job.settings["auto_promote"]) == ("queued", True)
    assert event.type == "job.queued"
    assert "by the schedule: 3 new questions since the last round" in event.message


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_round_uses_up_its_questions_however_it_ends(
    ready: sessionmaker[Session], status: str
) -> None:
    ask(ready, 1, 2, 3, at=1.0)
    assert start(ready) == "round"
    began = end_last_job(ready, status)
    assert start(ready) is None
    ask(ready, 1, 2, 3, at=began + 1)  # known questions
    ask(ready, 4, 5, at=began + 1)
    assert start(ready) is None
    ask(ready, 6, at=began + 1)
    assert start(ready) == "round"


def test_a_drifted_critic_is_recalibrated_once_even_in_vain(ready: sessionmaker[Session]) -> None:
    ask(ready, 1, 2, 3, at=1.0)
    start(ready)
    began = end_last_job(ready, "succeeded", auroc=0.51)
    ask(ready, 4, 5, 6, at=began + 1)
    assert start(ready) == "recalibrate"
    end_last_job(ready, "succeeded", auroc=0.51)
    assert start(ready) == "round"


def test_a_pause_holds_the_round_that_is_due(ready: sessionmaker[Session]) -> None:
    ask(ready, 1, 2, 3, at=1.0)
    with ready.begin() as s:
        ledger.training.set_paused(s, True)
        assert look(s, 5.0).paused
    assert start(ready) is None
    with ready.begin() as s:
        ledger.training.set_paused(s, False)
    assert start(ready) == "round"
