"""What becomes of a job in the ledger, whatever happens to its worker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import InvalidInputError, LeaseLostError
from tempo_storage.ledger.sessions import open_database
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs.lifecycle import ATTEMPTS, Jobs
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.sampling.verifier_pool import VerifierError
from tempo_trainer.worker_settings import WorkerSettings


class ScriptedJobs(Jobs):
    """Jobs whose work is a function of the test."""

    work: Callable[[], dict[str, Any]] = staticmethod(lambda: {"done": True})

    def _perform(self, job_id: str) -> dict[str, Any]:
        return self.work()


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    made = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with made.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        ledger.jobs.create(s, "j", "round", {})
    yield made
    made.kw["bind"].dispose()


def jobs(sessions: sessionmaker[Session], work: Callable[[], dict[str, Any]]) -> ScriptedJobs:
    made = ScriptedJobs(WorkerSettings(), sessions, epoch=lambda: 1, should_stop=lambda: False)
    made.work = work
    return made


def status(sessions: sessionmaker[Session]) -> tuple[str, int, str | None]:
    with sessions() as s:
        job = ledger.jobs.get(s, "j")
        return job.status, job.attempts, job.error


def raising(error: Exception) -> Callable[[], dict[str, Any]]:
    def work() -> dict[str, Any]:
        raise error

    return work


def test_a_job_runs_once_however_often_the_doorbell_rings(sessions: sessionmaker[Session]) -> None:
    runs: list[int] = []
    made = jobs(sessions, lambda: {"runs": runs.append(1) or len(runs)})
    made.run("j")
    made.run("j")
    made.run("unknown")
    assert runs == [1]
    assert status(sessions)[:2] == ("succeeded", 1)


def test_a_stopped_worker_leaves_the_job_queued_without_a_mark(
    sessions: sessionmaker[Session],
) -> None:
    jobs(sessions, raising(StoppedError("stop"))).run("j")
    assert status(sessions) == ("queued", 0, None)


def test_a_job_says_at_its_first_start_what_served_and_starts_in_no_pause(
    sessions: sessionmaker[Session],
) -> None:
    made = jobs(sessions, raising(StoppedError("training is paused")))
    with sessions.begin() as s:
        ledger.training.set_paused(s, True)
    made.run("j")
    assert status(sessions) == ("queued", 0, None)
    for paused in (False, False):
        with sessions.begin() as s:
            ledger.training.set_paused(s, paused)
        made.run("j")
        with sessions.begin() as s:
            assert ledger.jobs.get(s, "j").serving_sequence == 0
            ledger.versions.serving(s).sequence += 1
    with sessions() as s:
        reasons = [event.message for event in ledger.events.find(s, job_id="j")]
    assert reasons == ["round, attempt 1", "training is paused"] * 2


def test_a_cancelled_job_stays_cancelled(sessions: sessionmaker[Session]) -> None:
    def work() -> dict[str, Any]:
        with sessions.begin() as s:
            ledger.jobs.finish(s, "j", "cancelled")
        raise CancelledError("j")

    jobs(sessions, work).run("j")
    assert status(sessions)[0] == "cancelled"


@pytest.mark.parametrize("error", [SamplingError, VerifierError])
def test_a_server_or_verifier_that_is_away_fails_the_third_attempt(
    sessions: sessionmaker[Session], error: type[Exception]
) -> None:
    made = jobs(sessions, raising(error("no answer")))
    for attempt in range(1, ATTEMPTS + 1):
        made.run("j")
        assert status(sessions)[:2] == ("failed" if attempt == ATTEMPTS else "queued", attempt)
    assert status(sessions)[2] == "no answer"


def test_bad_input_fails_with_its_message_and_a_bug_with_its_traceback(
    sessions: sessionmaker[Session],
) -> None:
    jobs(sessions, raising(InvalidInputError("no unlabeled question was captured"))).run("j")
    assert status(sessions)[2] == "no unlabeled question was captured"
    with sessions.begin() as s:
        ledger.jobs.get(s, "j").status = "queued"
    jobs(sessions, raising(ZeroDivisionError("oops"))).run("j")
    assert "Traceback" in (status(sessions)[2] or "")


def test_a_dead_worker_s_job_is_queued_again_and_a_poison_job_fails(
    sessions: sessionmaker[Session],
) -> None:
    made = jobs(sessions, lambda: {})
    for attempt in range(1, ATTEMPTS + 1):
        assert made._claim("j")
        made.requeue_abandoned()
        assert status(sessions)[0] == ("failed" if attempt == ATTEMPTS else "queued")
    assert "3 workers in a row died" in (status(sessions)[2] or "")


def test_a_job_that_the_ledger_failed_is_queued_again(sessions: sessionmaker[Session]) -> None:
    made = jobs(sessions, raising(OperationalError("select", {}, Exception("it is locked"))))
    made.run("j")
    assert status(sessions) == ("running", 1, None)
    made.requeue_abandoned()
    assert status(sessions)[:2] == ("queued", 1)


def test_a_worker_that_lost_the_lease_commits_nothing(sessions: sessionmaker[Session]) -> None:
    made = jobs(sessions, lambda: {})

    def work() -> dict[str, Any]:
        with sessions.begin() as s:
            ledger.leases.release(s, ledger.leases.TRAINER, 1)
        with sessions.begin() as s:
            assert ledger.leases.acquire(s, ledger.leases.TRAINER, "another", 60.0) == 2
        return {"stale": True}

    made.work = work
    with pytest.raises(LeaseLostError):
        made.run("j")
    assert status(sessions)[0] == "running"
