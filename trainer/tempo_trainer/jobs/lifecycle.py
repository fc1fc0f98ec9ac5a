"""What RQ calls by name, and what becomes of a job in the ledger.

| event                         | status in SQL                                  |
|-------------------------------|------------------------------------------------|
| posted                        | queued                                         |
| a worker takes it             | running, attempts + 1                          |
| an iteration is committed     | running, attempts = 1                          |
| the worker is told to stop, or training is paused | queued, the iterations so far are committed |
| the worker or the ledger dies | queued again by who holds the lease after that |
| the third attempt dies or fails for want of vLLM | failed, with the reason     |
| done                          | succeeded, with the result                     |
"""

import logging
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import LeaseLostError, TempoError
from tempo_storage.ledger.models import Job
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.sampling.verifier_pool import VerifierError
from tempo_trainer.worker_settings import WorkerSettings

if TYPE_CHECKING:  # torch is imported with the first job: the process must answer signals before
    from tempo_trainer.learning.learner import Learner

logger = logging.getLogger("tempo.jobs")
ATTEMPTS = 3


class Jobs:
    """The jobs of one worker process; the learner stays in memory between them."""

    def __init__(
        self,
        settings: WorkerSettings,
        sessions: sessionmaker[Session],
        *,
        epoch: Callable[[], int],
        should_stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._epoch = epoch
        self._should_stop = should_stop
        self._learner: Learner | None = None

    def run(self, job_id: str) -> None:
        """Run a queued job to its end; any other job is left alone (the doorbell rang twice)."""
        if self._should_stop() or not self._claim(job_id):
            return
        try:
            result = self._perform(job_id)
        except (LeaseLostError, OperationalError) as error:  # queued again, by whoever may
            logger.warning("job %s: %s", job_id, error)
            self.close()  # what it holds may be ahead of the ledger
        except StoppedError as error:
            self._requeue(job_id, str(error), counts=False)
        except CancelledError as error:
            self._finish(job_id, "cancelled", error=str(error))
        except Exception as error:  # the job's border: a failure is the job's, not the worker's
            self._fail(job_id, error)
        else:
            self._finish(job_id, "succeeded", result=result)

    def requeue_abandoned(self) -> None:
        """Queue again what a dead worker was running; the third such death fails the job."""
        with self._sessions() as s:
            abandoned = ledger.jobs.find(s, statuses=("running",))
        for job in abandoned:
            if job.attempts < ATTEMPTS:
                self._requeue(job.id, "its worker, or the ledger, was gone", counts=True)
            else:
                message = f"{job.attempts} workers in a row died of it; see the worker's log"
                self._finish(job.id, "failed", error=message)

    def close(self) -> None:
        """Let go of the server and the verifiers."""
        if self._learner is not None:
            self._learner.world.close()
            self._learner = None

    def _perform(self, job_id: str) -> dict[str, Any]:
        from tempo_trainer.jobs.check import check
        from tempo_trainer.jobs.rounds import recalibrate, round_
        from tempo_trainer.learning.build import build_learner

        if self._learner is None:
            self._learner = build_learner(
                self._settings, self._sessions, epoch=self._epoch, should_stop=self._should_stop
            )
        with self._sessions() as s:
            job = ledger.jobs.get(s, job_id)
        work = {"recalibrate": recalibrate, "round": round_, "check": check}
        return work[job.mode](self._learner, job)

    def _claim(self, job_id: str) -> bool:
        with ledger.leases.fenced(self._sessions, self._epoch()) as s:
            job = s.get(Job, job_id, with_for_update=True)
            if job is None or job.status != "queued":
                return False
            if job_id not in {waiting.id for waiting in ledger.jobs.runnable(s)}:
                return False  # paused since the bell rang
            if job.serving_sequence is None:
                job.serving_sequence = ledger.versions.serving(s).sequence
            job.status, job.attempts = "running", job.attempts + 1
            job.started_at = job.started_at or time.time()
            ledger.events.add(
                s, "job.started", f"{job.mode}, attempt {job.attempts}", job_id=job_id
            )
        logger.info("job %s: started, attempt %d", job_id, job.attempts)
        return True

    def _requeue(self, job_id: str, reason: str, *, counts: bool) -> None:
        with ledger.leases.fenced(self._sessions, self._epoch()) as s:
            job = ledger.jobs.get(s, job_id, lock=True)
            if job.status == "running":
                job.status, job.attempts = "queued", job.attempts - int(not counts)
                ledger.events.add(s, "job.requeued", reason, job_id=job_id, level="warning")
        logger.info("job %s: goes on later: %s", job_id, reason)

    def _fail(self, job_id: str, error: Exception) -> None:
        self.close()
        with self._sessions() as s:
            attempts = ledger.jobs.get(s, job_id).attempts
        if isinstance(error, SamplingError | VerifierError) and attempts < ATTEMPTS:
            self._requeue(job_id, str(error), counts=True)
            return
        detail = str(error) if isinstance(error, TempoError) else traceback.format_exc()
        logger.error("job %s: failed: %s", job_id, detail)
        self._finish(job_id, "failed", error=detail)

    def _finish(
        self, job_id: str, status: str, *, result: dict[str, Any] | None = None, error: str = ""
    ) -> None:
        with ledger.leases.fenced(self._sessions, self._epoch()) as s:
            ledger.jobs.finish(s, job_id, status, result=result, error=error)
            level = "error" if status == "failed" else "info"
            message = (error.strip().splitlines() or [status])[-1]
            ledger.events.add(s, f"job.{status}", message, job_id=job_id, level=level)
        logger.info("job %s: %s", job_id, status)
