"""The RQ worker on a real Valkey: it runs one function, in its own process, with a heartbeat."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from valkeys import embedded_valkey

from tempo_storage.valkey.doorbell import ring
from tempo_storage.valkey.streams import QUEUE, redis_client
from tempo_trainer.worker import rq_worker
from tempo_trainer.worker.rq_worker import LeaseWorker

pytestmark = pytest.mark.service


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[redis.Redis]:
    with embedded_valkey(tmp_path) as valkey:
        client = redis_client(valkey.url, timeout_seconds=5.0)
        yield client
        client.close()


def do_nothing(job_id: str) -> None:
    """Run a job that does nothing."""


def work(connection: redis.Redis, run_job: Callable[[str], None] = do_nothing) -> None:
    LeaseWorker(connection, run_job).work(burst=True, logging_level="CRITICAL")


def test_a_ring_runs_the_ledger_s_job_in_this_process(connection: redis.Redis) -> None:
    runs: list[tuple[str, int]] = []
    assert ring(connection, "job-1")
    work(connection, lambda job_id: runs.append((job_id, os.getpid())))
    assert runs == [("job-1", os.getpid())]


def test_the_worker_never_calls_another_function(connection: redis.Redis, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    queued = queue.enqueue("os.system", f"touch {trace}")
    work(connection)
    assert not trace.exists()
    failed = Job.fetch(queued.id, connection=connection, serializer=JSONSerializer)
    assert failed.is_failed
    assert "only tempo_trainer.jobs.run_job runs here" in str(failed.latest_result().exc_string)


def test_the_worker_refuses_a_job_with_a_callback(connection: redis.Redis) -> None:
    runs: list[str] = []
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    callback = Callback("os.abort")  # would end this process
    queued = queue.enqueue(rq_worker.ALLOWED, "job-1", on_success=callback)
    work(connection, runs.append)
    assert runs == []
    assert Job.fetch(queued.id, connection=connection, serializer=JSONSerializer).is_failed


def test_a_long_job_keeps_its_short_lease(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rq_worker, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(rq_worker, "LEASE_SECONDS", 2)
    left: list[float] = []

    def run(_: str) -> None:
        for _ in range(4):
            time.sleep(1.0)
            ((_, ends),) = connection.zrange(f"rq:wip:{QUEUE}", 0, -1, withscores=True)
            left.append(ends - time.time())

    ring(connection, "job-1")
    work(connection, run)
    # At most the lease ahead, so that RQ notices a dead worker; never behind.
    assert all(0 < seconds <= 2 for seconds in left)
