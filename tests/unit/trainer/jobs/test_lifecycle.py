"""The status of a job in the ledger, whatever happens to its worker."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from ledgers import hold_lease
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import InvalidInputError, LeaseLostError
from tempo_storage.ledger.models import JobResult
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.jobs.lifecycle import MAX_ATTEMPTS, Jobs
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.sampling.verifier_pool import VerifierError
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker_settings import WorkerSettings

DONE = JobResult(report={"done": True})


class ScriptedJobs(Jobs):
    """Jobs whose work is a function of the test."""

    work: Callable[[], JobResult]

    def _perform(self, job_id: str) -> JobResult:
        return self.work()


@pytest.fixture
def queued(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """A ledger with the job `j`, which nobody has claimed."""
    with sessions.begin() as s:
        ledger.jobs.create(s, "j", "round", {})
    return sessions


def jobs(sessions: sessionmaker[Session], work: Callable[[], JobResult]) -> ScriptedJobs:
    epoch = hold_lease(sessions)
    leased = LeasedSessions(sessions, lambda: epoch)
    scripted = ScriptedJobs(WorkerSettings(), leased, should_stop=lambda: False)
    scripted.work = work
    return scripted


def status(sessions: sessionmaker[Session]) -> tuple[str, int, str | None]:
    with sessions() as s:
        job = ledger.jobs.get(s, "j")
        return job.status, job.attempts, job.error


def raising(error: Exception) -> Callable[[], JobResult]:
    def work() -> JobResult:
        raise error

    return work


def test_a_job_runs_once_however_often_the_doorbell_rings(queued: sessionmaker[Session]) -> None:
    runs: list[int] = []

    def work() -> JobResult:
        runs.append(1)
        return DONE

    worker = jobs(queued, work)
    worker.run("j")
    worker.run("j")
    worker.run("unknown")
    assert runs == [1]
    assert status(queued)[:2] == ("succeeded", 1)


def test_a_stopped_worker_leaves_the_job_queued_without_a_mark(
    queued: sessionmaker[Session],
) -> None:
    jobs(queued, raising(StoppedError("stop"))).run("j")
    assert status(queued) == ("queued", 0, None)


def test_a_job_records_the_serving_sequence_of_its_first_start_and_starts_in_no_pause(
    queued: sessionmaker[Session],
) -> None:
    worker = jobs(queued, raising(StoppedError("training is paused")))
    with queued.begin() as s:
        ledger.training.set_paused(s, True)
    worker.run("j")
    assert status(queued) == ("queued", 0, None)
    with queued.begin() as s:
        ledger.training.set_paused(s, False)
    for _ in range(2):
        worker.run("j")
        with queued.begin() as s:
            assert ledger.jobs.get(s, "j").serving_sequence == 0
            ledger.versions.serving(s).sequence += 1
    with queued() as s:
        messages = [event.message for event in ledger.events.find(s, job_id="j")]
    assert messages == ["round, attempt 1", "training is paused"] * 2


def test_a_cancelled_job_stays_cancelled(queued: sessionmaker[Session]) -> None:
    def work() -> JobResult:
        with queued.begin() as s:
            ledger.jobs.finish(s, "j", "cancelled")
        raise CancelledError("j")

    jobs(queued, work).run("j")
    assert status(queued)[0] == "cancelled"


@pytest.mark.parametrize("error", [SamplingError, VerifierError])
def test_an_absent_server_or_verifier_fails_the_third_attempt(
    queued: sessionmaker[Session], error: type[Exception]
) -> None:
    worker = jobs(queued, raising(error("no answer")))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        worker.run("j")
        expected = "failed" if attempt == MAX_ATTEMPTS else "queued"
        assert status(queued)[:2] == (expected, attempt)
    assert status(queued)[2] == "no answer"


def test_bad_input_fails_with_its_message_and_a_bug_with_its_traceback(
    queued: sessionmaker[Session],
) -> None:
    jobs(queued, raising(InvalidInputError("no unlabeled question was captured"))).run("j")
    assert status(queued)[2] == "no unlabeled question was captured"
    with queued.begin() as s:
        ledger.jobs.get(s, "j").status = "queued"
    jobs(queued, raising(ZeroDivisionError("oops"))).run("j")
    error = status(queued)[2] or ""
    assert "Traceback" in error
    assert error.endswith("ZeroDivisionError")  # its message might quote a question


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    queued: sessionmaker[Session],
) -> None:
    error = ModuleNotFoundError("No module named 'peft'", name="peft")
    jobs(queued, raising(error)).run("j")
    message = "peft is missing where the worker runs; pip install 'vllm-tempo[trainer]'"
    assert status(queued) == ("failed", 1, message)


def test_a_dead_worker_s_job_is_queued_again_and_a_poison_job_fails(
    queued: sessionmaker[Session],
) -> None:
    worker = jobs(queued, lambda: DONE)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert worker._claim("j")
        worker.requeue_abandoned()
        assert status(queued)[0] == ("failed" if attempt == MAX_ATTEMPTS else "queued")
    assert "3 workers in a row died" in (status(queued)[2] or "")


def test_a_job_that_the_ledger_failed_is_queued_again(queued: sessionmaker[Session]) -> None:
    worker = jobs(queued, raising(OperationalError("select", {}, Exception("it is locked"))))
    worker.run("j")
    assert status(queued) == ("running", 1, None)
    worker.requeue_abandoned()
    assert status(queued)[:2] == ("queued", 1)


def test_a_worker_that_lost_the_lease_commits_nothing(queued: sessionmaker[Session]) -> None:
    def lose_the_lease() -> JobResult:
        with queued.begin() as s:
            ledger.leases.release(s, 1)
        assert hold_lease(queued, "another") == 2
        return DONE

    worker = jobs(queued, lose_the_lease)
    with pytest.raises(LeaseLostError):
        worker.run("j")
    assert status(queued)[0] == "running"


def test_a_worker_imports_torch_with_its_first_job_only() -> None:
    script = "import sys, tempo_trainer.worker.process; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.stdout == "False\n", child.stderr
