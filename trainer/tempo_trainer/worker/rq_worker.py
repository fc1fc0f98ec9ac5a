"""RQ's worker with a resident model: it heartbeats during a job and runs one function only.

Not RQ's Worker: forking breaks CUDA and would load the model for each job. Not its SimpleWorker as
it is: that one keeps silent during a job, and a killed one is noticed only after the job's own
time-out. RQ's bookkeeping is a doorbell; what is true of a job stands in SQL.
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
from tempo_trainer.worker.background import repeated

logger = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 15
WORKER_TTL_SECONDS = 20  # RQ looks after its registries only between blocking reads of this length
IDLE_SECONDS = 2


class TempoJob(Job):
    """A job that can only be ours: JSON decides nothing about which function runs."""

    @property
    def func(self) -> Callable[..., Any] | None:
        """Return the one function; raise InvalidInputError for any other, or for callbacks."""
        extras = (self._success_callback_name, self._failure_callback_name, self.webhooks)
        if self.func_name != ALLOWED or any(extras):
            raise InvalidInputError(
                f"job {self.id} calls {self.func_name!r} with callbacks {extras}; only {ALLOWED} "
                "runs here: someone else writes to this Valkey"
            )
        return self.run_job

    run_job: Callable[..., Any] | None = None
    """The function of the worker that took this job; the name in Valkey imports nothing."""


class LeaseWorker(SimpleWorker):
    """Run queued jobs in this process until the queue is empty and idle."""

    job_class = TempoJob
    death_penalty_class = TimerDeathPenalty  # math-verify takes SIGALRM away
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
        """Run what is queued and return when nothing came for two seconds."""
        self.work(max_idle_time=IDLE_SECONDS, logging_level="WARNING")

    def _install_signal_handlers(self) -> None:
        # The process has its own: RQ's would raise in whatever the main thread is doing.
        pass

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return how long RQ believes in a silent worker, in seconds."""
        return LEASE_SECONDS

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        """Run the job while a thread tells RQ that it is alive."""
        job.run_job = self._run_job
        with repeated(lambda: self._beat(job, execution), HEARTBEAT_SECONDS):
            return bool(super().perform_job(job, queue, execution))

    def _beat(self, job: Job, execution: Any) -> float:
        try:
            self.maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            logger.warning("worker %s: no heartbeat reached Valkey: %s", self.name, error)
        return HEARTBEAT_SECONDS
