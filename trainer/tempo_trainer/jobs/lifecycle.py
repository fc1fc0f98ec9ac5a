"""The life of a job in the ledger: a worker claims it, runs it, and records its end.

| event                                             | status in SQL                            |
|---------------------------------------------------|------------------------------------------|
| an operator or the schedule queues it             | queued                                   |
| a worker claims it                                | running, attempts + 1                    |
| an iteration is committed                         | running, attempts = 1                    |
| the worker stops, or training is paused           | queued; committed iterations, and the    |
|                                                   | E-steps of a warm-up, stay               |
| the worker or the ledger fails                    | queued again by the lease's next holder  |
| the third attempt dies, or fails for want of vLLM | failed, with the reason                  |
| the work is done, or there is nothing to do       | succeeded, with the result               |
| an operator cancels it                            | cancelled; committed iterations stay     |
| the serving version changed since the job began   | cancelled, with the reason               |
| a check gives way to a waiting job                | cancelled, with the reason               |

While the gate asks its questions, the job does not end. If the job was cancelled or the serving
version changed meanwhile, the candidate is not promoted afterwards. A pause does not undo work: the
gate still decides.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from tempo_storage import failures, ledger
from tempo_storage.errors import LeaseLostError, TempoError
from tempo_storage.ledger.models import Job, JobResult
from tempo_trainer.errors import CancelledError, StoppedError
from tempo_trainer.sampling.sampler import SamplingError
from tempo_trainer.sampling.verifier_pool import VerifierError
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker_settings import WorkerSettings

if TYPE_CHECKING:  # the first job imports torch: until then the process must answer signals
    from tempo_trainer.jobs.rounds import Rounds

logger = logging.getLogger("tempo.jobs")
MAX_ATTEMPTS = 3


class Jobs:
    """The jobs of one worker process; the model stays in memory between them."""

    def __init__(
        self, settings: WorkerSettings, sessions: LeasedSessions, should_stop: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._should_stop = should_stop
        self._rounds: Rounds | None = None

    def run(self, job_id: str) -> None:
        """Run a job to its end; ignore one that is not queued."""
        if self._should_stop() or not self._claim(job_id):
            return
        try:
            result = self._perform(job_id)
        except (LeaseLostError, OperationalError) as error:  # the lease's holder queues it again
            logger.warning("job %s: %s", job_id, failures.reason(error))
            self.close()  # the model in memory may be ahead of the ledger
        except StoppedError as error:
            self._requeue(job_id, str(error), counts=False)
        except CancelledError as error:
            self._finish(job_id, "cancelled", error=str(error))
        except Exception as error:  # a failure ends the job, not the worker
            self._fail(job_id, error)
        else:
            self._finish(job_id, "succeeded", result=result)

    def requeue_abandoned(self) -> None:
        """Queue the jobs of dead workers again; fail a job after its third such attempt."""
        with self._sessions.read() as s:
            abandoned = ledger.jobs.find(s, statuses=("running",))
        for job in abandoned:
            if job.attempts < MAX_ATTEMPTS:
                self._requeue(job.id, "its worker, or the ledger, was gone", counts=True)
            else:
                message = f"{job.attempts} workers in a row died of it; see the worker's log"
                self._finish(job.id, "failed", error=message)

    def close(self) -> None:
        """Forget the model, close the connections to the server and end the verifiers."""
        if self._rounds is not None:
            self._rounds.responses.close()
            self._rounds = None

    def _perform(self, job_id: str) -> JobResult:
        from tempo_trainer.jobs.build import build_rounds
        from tempo_trainer.jobs.running import RunningJob
        from tempo_trainer.jobs.sentinel import check

        if self._rounds is None:
            self._rounds = build_rounds(self._settings, self._sessions, self._should_stop)
        with self._sessions.read() as s:
            row = ledger.jobs.get(s, job_id)
        job = RunningJob(row, self._sessions, self._should_stop)
        self._rounds.responses.sampler.on_responses = job.progress.sampled
        if row.mode == "check":
            return check(job, self._settings, self._rounds.responses)
        if row.mode == "recalibrate":
            return self._rounds.run_recalibration(job)
        return self._rounds.run(job)

    def _claim(self, job_id: str) -> bool:
        """Mark a job as running and return True, unless it may not run now."""
        with self._sessions.write() as s:
            job = s.get(Job, job_id, with_for_update=True)
            if job is None or job.status != "queued":
                return False
            if job_id not in {waiting.id for waiting in ledger.jobs.runnable(s)}:
                return False  # an operator paused training meanwhile
            if job.serving_sequence is None:
                job.serving_sequence = ledger.versions.serving(s).sequence
            job.status = "running"
            job.progress = {"phase": "loading"}
            job.attempts += 1
            job.started_at = job.started_at or time.time()
            message = f"{job.mode}, attempt {job.attempts}"
            ledger.events.add(s, "job.started", message, job_id=job_id)
        logger.info("job %s: started: %s", job_id, message)
        return True

    def _requeue(self, job_id: str, reason: str, *, counts: bool) -> None:
        """Queue a running job again; the attempt `counts` towards the limit, or does not."""
        with self._sessions.write() as s:
            job = ledger.jobs.get(s, job_id, lock=True)
            if job.status == "running":
                job.status = "queued"
                job.attempts -= int(not counts)
                ledger.events.add(s, "job.requeued", reason, job_id=job_id, level="warning")
        logger.info("job %s: is queued again: %s", job_id, reason)

    def _fail(self, job_id: str, error: Exception) -> None:
        self.close()
        with self._sessions.read() as s:
            attempts = ledger.jobs.get(s, job_id).attempts
        if isinstance(error, SamplingError | VerifierError) and attempts < MAX_ATTEMPTS:
            self._requeue(job_id, str(error), counts=True)
            return
        detail = str(error) if isinstance(error, TempoError) else failures.trace(error)
        if isinstance(error, ModuleNotFoundError):
            packages = "'vllm-tempo[trainer]'"
            detail = f"{error.name} is missing where the worker runs; pip install {packages}"
        logger.error("job %s: failed: %s", job_id, detail)
        self._finish(job_id, "failed", error=detail)

    def _finish(
        self, job_id: str, status: str, *, result: JobResult | None = None, error: str = ""
    ) -> None:
        with self._sessions.write() as s:
            ledger.jobs.finish(s, job_id, status, result=result, error=error)
            level = "error" if status == "failed" else "info"
            message = (error.strip().splitlines() or [status])[-1]
            ledger.events.add(s, f"job.{status}", message, job_id=job_id, level=level)
        logger.info("job %s: %s", job_id, status)
