"""The worker process. If several run, only the one with the lease reads the stream and runs jobs.

    python -m tempo_trainer.worker

SIGTERM lets it commit the current iteration, then it exits with 0.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import LeaseLostError, TempoError
from tempo_storage.failures import hide_messages, reason
from tempo_storage.ledger.sessions import open_database
from tempo_storage.private import create_private
from tempo_storage.processes import die_with_parent, forbid_core_files
from tempo_storage.settings import checked
from tempo_storage.valkey.doorbell import ring
from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import QUEUE, QuestionStream, redis_client
from tempo_trainer.jobs import schedule
from tempo_trainer.jobs.lifecycle import Jobs
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker.background import repeated_in_thread
from tempo_trainer.worker.retention import Retention
from tempo_trainer.worker.rq_worker import HEARTBEAT_SECONDS, LEASE_SECONDS, LeaseWorker
from tempo_trainer.worker.stream_reader import StreamReader
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.worker")
WAIT_SECONDS = 1.0
REDIS_TIMEOUT_SECONDS = 5.0


class Worker:
    """Waits for the lease, works while it holds it, and waits again after it loses it."""

    def __init__(
        self, settings: WorkerSettings, sessions: sessionmaker[Session], redis_url: str
    ) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self.stopping = threading.Event()
        self.epoch = 0
        self._lost = threading.Event()  # another worker took the lease
        self._settings = settings
        self._sessions = sessions
        self._redis_url = redis_url
        self._jobs = Jobs(
            settings,
            LeasedSessions(sessions, lambda: self.epoch),
            should_stop=lambda: self.stopping.is_set() or self._lost.is_set(),
        )

    def run(self) -> None:
        """Wait for the lease, work, and wait again, until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        while not self.stopping.is_set():
            if self._acquire():
                logger.info("worker %s: holds the lease, epoch %d", self.owner, self.epoch)
                self._work()
            self.stopping.wait(WAIT_SECONDS)
        self._jobs.close()

    def _work(self) -> None:
        stream = QuestionStream(redis_client(self._redis_url))
        reader = StreamReader(stream, self._sessions, keep=self._settings.pool_questions)
        connection = redis_client(self._redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS)
        retention = Retention(stream, self._sessions, days=self._settings.retention_days)
        with (
            repeated_in_thread(reader.step),
            repeated_in_thread(retention.step),
            self._hold_lease(),
        ):
            while not (self.stopping.is_set() or self._lost.is_set()):
                self._queue_due_and_ring(connection)
                self._listen_once(connection)
        connection.close()

    def _listen_once(self, connection: redis.Redis) -> None:
        try:
            LeaseWorker(connection, self._jobs.run).work_until_idle()
        except redis.RedisError as error:
            logger.warning("worker %s: Valkey does not answer: %s", self.owner, error)
            self.stopping.wait(WAIT_SECONDS)

    def _queue_due_and_ring(self, connection: redis.Redis) -> None:
        """Queue the job that is due, then ring for the oldest waiting job if no bell is pending.

        A job waits if its bell was lost with Valkey, or rang for a worker that died. No job runs
        between two bells, so a job still marked `running` belonged to a worker that died.
        """
        try:
            self._jobs.requeue_abandoned()
            with self._sessions.begin() as s:
                schedule.start_due_job(s, self._settings)
                waiting = [job.id for job in ledger.jobs.runnable(s)]
            if waiting and not connection.llen(f"rq:queue:{QUEUE}"):
                ring(connection, waiting[0])
        except redis.RedisError:
            logger.debug("worker %s: Valkey is away, %d jobs wait", self.owner, len(waiting))
        except (SQLAlchemyError, LeaseLostError) as error:
            logger.warning(
                "worker %s: cannot look for jobs in the ledger: %s", self.owner, reason(error)
            )

    # The lease ----------------------------------------------------------------------------------

    def _acquire(self) -> bool:
        try:
            with self._sessions.begin() as s:
                epoch = ledger.leases.acquire(s, self.owner, LEASE_SECONDS)
        except SQLAlchemyError as error:
            logger.warning("worker %s: the ledger does not answer: %s", self.owner, reason(error))
            return False
        self.epoch = epoch or 0
        return epoch is not None

    @contextmanager
    def _hold_lease(self) -> Iterator[None]:
        self._lost.clear()
        try:
            with repeated_in_thread(self._renew_lease, HEARTBEAT_SECONDS):
                yield
        finally:
            with self._sessions.begin() as s:
                ledger.leases.release(s, self.epoch)

    def _renew_lease(self) -> float:
        try:
            with self._sessions.begin() as s:
                ledger.leases.renew(s, self.epoch, LEASE_SECONDS)
        except LeaseLostError as error:
            logger.warning("worker %s: %s", self.owner, error)
            self._lost.set()
        except SQLAlchemyError as error:
            logger.warning("worker %s: cannot renew the lease: %s", self.owner, reason(error))
        return HEARTBEAT_SECONDS


def main() -> None:
    """Run a worker until a signal ends it; exit 1 with one line if it cannot start."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = checked(WorkerSettings)
        if settings.die_with_parent:
            die_with_parent()
        hide_messages()
        forbid_core_files()
        create_private(settings.root)
        redis_url = settings.redis_url or keep_running(settings.root)
        Worker(settings, open_database(settings.resolved_database_url), redis_url).run()
    except (TempoError, SQLAlchemyError) as error:
        logger.error("the worker cannot run: %s", reason(error))
        sys.exit(1)
