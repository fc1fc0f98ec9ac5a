"""An RQ worker whose model stays in memory: it sends heartbeats and runs one function only.

It is not RQ's Worker, because a fork breaks CUDA and would load the model for each job. It is not
the stock SimpleWorker, because that one sends no heartbeat during a job, and RQ notices its death
only after the job's own time-out. RQ is a doorbell here; the truth about a job is in SQL.
"""

import logging
from collections.abc import Callable
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from tempo_storage.errors import InvalidInputError
from tempo_storage.valkey.doorbell import FUNCTION as ALLOWED
from tempo_storage.valkey.streams import QUEUE
from tempo_trainer.worker.background import repeated_in_thread

logger = logging.getLogger("tempo.worker")
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 15
WORKER_TTL_SECONDS = 20  # RQ looks after its registries only between blocking reads of this length
IDLE_SECONDS = 2


class TempoJob(Job):
    """A job that always runs the worker's own function, whatever its JSON in Valkey says."""

    @property
    def func(self) -> Callable[..., Any] | None:
        """Return the worker's function; raise InvalidInputError for another, or for callbacks."""
        extras = (self._success_callback_name, self._failure_callback_name, self.webhooks)
        if self.func_name != ALLOWED or any(extras):
            raise InvalidInputError(
                f"job {self.id} calls {self.func_name!r} with callbacks {extras}; only {ALLOWED} "
                "runs here: another program writes to this Valkey; give it a Valkey of its own"
            )
        return self.run_job

    run_job: Callable[..., Any] | None = None
    """Set by the worker that takes the job; the name stored in Valkey is never imported."""


class LeaseWorker(SimpleWorker):
    """Run queued jobs in this process until the queue is empty and idle."""

    job_class = TempoJob
    death_penalty_class = TimerDeathPenalty  # leaves SIGALRM to others
    max_connection_wait_time = 2.0

    def __init__(self, connection: redis.Redis, run_job: Callable[[str], None]) -> None:
        self._run_job = run_job
        super().__init__(
            [QUEUE],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            log_job_description=False,
        )

    def work_until_idle(self) -> None:
        """Run the queued jobs; return when the queue was empty for two seconds."""
        self.work(max_idle_time=IDLE_SECONDS, logging_level="WARNING")

    def _install_signal_handlers(self) -> None:
        # The process has handlers of its own. RQ's would raise in the middle of a training step.
        pass

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return the seconds of silence after which RQ takes the worker for dead."""
        return LEASE_SECONDS

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        """Run the job while a thread sends heartbeats to RQ."""
        job.run_job = self._run_job
        with repeated_in_thread(lambda: self._beat(job, execution), HEARTBEAT_SECONDS):
            return bool(super().perform_job(job, queue, execution))

    def _beat(self, job: Job, execution: Any) -> float:
        try:
            self.maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            logger.warning("worker %s: no heartbeat reached Valkey: %s", self.name, error)
        return HEARTBEAT_SECONDS
