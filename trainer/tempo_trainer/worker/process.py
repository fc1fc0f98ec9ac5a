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
from tempo_storage.failures import hide_messages, reason, trace
from tempo_storage.ledger.sessions import open_database
from tempo_storage.private import create_private
from tempo_storage.processes import die_with_parent, forbid_core_files
from tempo_storage.settings import checked
from tempo_storage.valkey.doorbell import Listener
from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import QuestionStream, redis_client
from tempo_trainer.jobs import schedule
from tempo_trainer.jobs.lifecycle import Jobs
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker.background import repeated_in_thread
from tempo_trainer.worker.refusals import Refusals
from tempo_trainer.worker.retention import Retention
from tempo_trainer.worker.rq_worker import HEARTBEAT_SECONDS, LEASE_SECONDS, LeaseWorker
from tempo_trainer.worker.stall_watch import StallWatch
from tempo_trainer.worker.stream_reader import StreamReader
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.worker")
WAIT_SECONDS = 1.0
RING_SECONDS = 2.0  # between two looks into the ledger without a ring
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
        leased_sessions = LeasedSessions(sessions, lambda: self.epoch)
        self._refusals = Refusals(leased_sessions)
        self._jobs = Jobs(settings, leased_sessions, should_stop=self._should_stop)

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
        reader = StreamReader(
            stream,
            self._sessions,
            keep=self._settings.pool_questions,
            quarantine=self._settings.tenant_quarantine,
        )
        watch = StallWatch(stream, self._sessions)
        connection = redis_client(self._redis_url, timeout_seconds=REDIS_TIMEOUT_SECONDS)
        retention = Retention(stream, self._sessions, days=self._settings.retention_days)
        listener = Listener(connection)
        with (
            repeated_in_thread(reader.step),
            repeated_in_thread(watch.step),
            repeated_in_thread(retention.step),
            self._hold_lease(),
        ):
            while not self._should_stop():
                try:
                    self._run_jobs(connection)
                    self._wait_for_ring(listener)
                except (SQLAlchemyError, LeaseLostError) as error:
                    logger.warning("worker %s: the ledger: %s", self.owner, reason(error))
                    self.stopping.wait(WAIT_SECONDS)
                except Exception as error:  # the worker goes on
                    logger.error("worker %s: cannot look for jobs: %s", self.owner, trace(error))
                    self.stopping.wait(WAIT_SECONDS)
        listener.close()

    def _should_stop(self) -> bool:
        return self.stopping.is_set() or self._lost.is_set()

    def _run_jobs(self, connection: redis.Redis) -> None:
        """Run the jobs that may run, by RQ's worker while Valkey lets it, else without it."""
        begun: list[str] = []

        def run(job_id: str) -> None:
            begun.append(job_id)
            try:
                self._jobs.run(job_id)
            except Exception as error:  # the job counts as abandoned, and gets three tries
                # RQ would log its message, which may quote a question, and write it to Valkey.
                logger.error("worker %s: job %s broke off: %s", self.owner, job_id, trace(error))
                self.stopping.wait(WAIT_SECONDS)

        if (job_id := self._next_job()) is None:
            return
        try:
            LeaseWorker(connection, self._next_job, run).work_until_idle()
        except redis.RedisError as error:
            logger.warning("worker %s: RQ cannot run a job: %s", self.owner, error)
        if not begun:
            run(job_id)

    def _next_job(self) -> str | None:
        """Queue the job that is due, then return the oldest job that may run.

        One job runs at a time, so a job that is still marked `running` belonged to a worker that
        died.
        """
        if self._should_stop():
            return None
        self._jobs.requeue_abandoned()
        with self._sessions.begin() as s:
            schedule.start_due_job(s, self._settings)
            waiting = [job.id for job in ledger.jobs.runnable(s)]
        return waiting[0] if waiting else None

    def _wait_for_ring(self, listener: Listener) -> None:
        try:
            refused = listener.wait(RING_SECONDS)
        except redis.RedisError as error:
            logger.warning("worker %s: Valkey does not answer: %s", self.owner, error)
            self.stopping.wait(RING_SECONDS)
        else:
            self._refusals.add(refused)

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
        sessions = open_database(settings.resolved_database_url)
        with sessions.begin() as s:
            ledger.audit.record_settings(s, settings.of_learning())
        Worker(settings, sessions, redis_url).run()
    except (TempoError, SQLAlchemyError) as error:
        logger.error("the worker cannot run: %s", reason(error))
        sys.exit(1)
