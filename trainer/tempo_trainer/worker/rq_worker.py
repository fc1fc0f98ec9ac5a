"""An RQ worker whose model stays in memory, and that runs nothing that Valkey names.

It is not RQ's Worker, because a fork breaks CUDA and would load the model for each job. It is not
the stock SimpleWorker, because that one sends no heartbeat during a job, and RQ notices its death
only after the job's own time-out.

RQ is a doorbell here. After a ring, or a wait without one, the worker looks into the ledger for the
oldest job that may run, and makes the RQ job of it by itself. So it never reads an RQ job, a
command, a suspension or a registry that another program may have written.

RQ writes what a job raises to its log and to Valkey, and it may quote a question. So `run_job` must
not raise.
"""

import logging
from collections.abc import Callable
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from tempo_storage.valkey.doorbell import FUNCTION, KEEP, NO_TIMEOUT
from tempo_storage.valkey.streams import QUEUE
from tempo_trainer.worker.background import repeated_in_thread

logger = logging.getLogger("tempo.worker")
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 15
WORKER_TTL_SECONDS = 20


class LedgerJob(Job):
    """A job of the ledger as RQ's worker runs it."""

    run_job: Callable[..., Any] | None = None

    @property
    def func(self) -> Callable[..., Any] | None:
        """Return the worker's own function; the name stored in Valkey is never imported."""
        return self.run_job


class LedgerQueue(Queue):
    """A queue whose jobs have no dependents, so that RQ looks for none in Valkey."""

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Return no dependents of a job that succeeded."""
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> None:
        """Queue no dependents of a job that failed."""


class LeaseWorker(SimpleWorker):
    """Run the jobs that wait in the ledger in this process, until none waits."""

    job_class = LedgerJob
    queue_class = LedgerQueue
    death_penalty_class = TimerDeathPenalty  # leaves SIGALRM to others

    def __init__(
        self,
        connection: redis.Redis,
        next_job: Callable[[], str | None],
        run_job: Callable[[str], None],
    ) -> None:
        self._next_job = next_job
        self._run_job = run_job
        super().__init__(
            [QUEUE],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            log_job_description=False,
        )

    def work_until_idle(self) -> None:
        """Run the ledger's jobs, the oldest first; return when none waits."""
        self.work(logging_level="WARNING")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Return the oldest job of the ledger that may run, None if there is none."""
        self.heartbeat()
        try:
            job_id = self._next_job()
        except Exception:  # RQ would log its message; whoever looks for a job next meets it again
            return None
        if job_id is None:
            return None
        queue = self.queues[0]
        job = queue.create_job(FUNCTION, args=(job_id,), timeout=NO_TIMEOUT, **KEEP)
        job.redis_server_version = self.get_redis_server_version()
        job.run_job = self._run_job
        return job, queue

    def subscribe(self) -> None:
        """Obey no command that comes through Valkey: shutdown, kill-horse, stop-job."""

    def unsubscribe(self) -> None:
        """There is nothing to leave."""

    def check_for_suspension(self, burst: bool) -> None:
        """Go on, also while `rq:suspended` is set; `tempo pause` is the operator's way."""

    def run_maintenance_tasks(self) -> None:
        """Leave RQ's registries alone; the ledger knows which jobs are abandoned."""

    def _install_signal_handlers(self) -> None:
        # The process has handlers of its own. RQ's would raise in the middle of a training step.
        pass

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return the seconds of silence after which RQ takes the worker for dead."""
        return LEASE_SECONDS

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        """Run the job while a thread sends heartbeats to RQ."""
        with repeated_in_thread(lambda: self._beat(job, execution), HEARTBEAT_SECONDS):
            return bool(super().perform_job(job, queue, execution))

    def _beat(self, job: Job, execution: Any) -> float:
        try:
            self.maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            logger.warning("worker %s: no heartbeat reached Valkey: %s", self.name, error)
        return HEARTBEAT_SECONDS
