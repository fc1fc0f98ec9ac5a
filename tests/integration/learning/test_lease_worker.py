"""RQ's worker on a real Valkey: it runs the ledger's jobs, in its own process, with a heartbeat."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from forgeries import REFUSED, command
from rq.job import Job
from valkeys import embedded_valkey

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


def work(connection: redis.Redis, *job_ids: str, run: Callable[[str], None]) -> None:
    """Run these jobs as if they waited in the ledger."""
    waiting = list(job_ids)
    LeaseWorker(connection, lambda: waiting.pop(0) if waiting else None, run).work_until_idle()


def test_the_ledger_s_jobs_run_in_this_process_in_their_order(connection: redis.Redis) -> None:
    runs: list[tuple[str, int]] = []
    work(connection, "job-1", "job-2", run=lambda job_id: runs.append((job_id, os.getpid())))
    assert runs == [("job-1", os.getpid()), ("job-2", os.getpid())]
    (worker,) = connection.keys("rq:worker:*")
    assert connection.hget(worker, "successful_job_count") == b"2"


@pytest.mark.parametrize("name", ["os.system", "a success callback", "a suspension"])
def test_what_others_queued_is_not_read(name: str, connection: redis.Redis, tmp_path: Path) -> None:
    runs: list[str] = []
    forge = REFUSED.get(name, lambda client, _: client.set("rq:suspended", 1))
    forge(connection, tmp_path / "canary")
    work(connection, "job-1", run=runs.append)
    assert runs == ["job-1"]
    assert not (tmp_path / "canary").exists()


def test_a_command_does_not_end_a_job(connection: redis.Redis) -> None:
    runs: list[str] = []

    def run(job_id: str) -> None:
        for channel in connection.pubsub_channels():
            connection.publish(channel, '{"command": "shutdown"}')
        command(connection, "shutdown")
        time.sleep(0.5)
        runs.append(job_id)

    work(connection, "job-1", "job-2", run=run)
    assert runs == ["job-1", "job-2"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_that_another_program_hangs_on_ours_is_not_read(
    fails: bool, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(Job, "restore", lambda self, raw: read.append(raw))
    connection.hset("rq:job:forged", mapping={"data": b"x", "status": "deferred"})

    def run(_: str) -> None:
        for key in connection.keys("rq:job:*"):
            connection.sadd(key + b":dependents", "forged")
        if fails:
            raise ValueError

    work(connection, "job-1", run=run)
    assert read == []
    assert connection.keys("rq:job:*:dependents")
    assert not connection.exists(f"rq:queue:{QUEUE}")


def test_a_job_that_fails_does_not_stop_the_next_one(connection: redis.Redis) -> None:
    runs: list[str] = []

    def run(job_id: str) -> None:
        runs.append(job_id)
        raise ValueError(job_id)

    work(connection, "job-1", "job-2", run=run)
    assert runs == ["job-1", "job-2"]


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

    work(connection, "job-1", run=run)
    # At most the lease ahead, so that RQ notices a dead worker; never behind.
    assert all(0 < seconds <= 2 for seconds in left)
