"""A job of the worker that breaks off, on a real Valkey and a real ledger."""

from pathlib import Path

import pytest
from ledgers import sqlite_ledger
from valkeys import embedded_valkey

from tempo_storage import ledger
from tempo_storage.valkey.streams import redis_client
from tempo_trainer.worker import process
from tempo_trainer.worker.process import Worker
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = pytest.mark.service
TEXT = "how many canaries sing"


@pytest.mark.parametrize("has_rq", [True, False])
def test_a_job_that_breaks_off_is_tried_three_times_and_valkey_never_has_its_message(
    has_rq: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "WAIT_SECONDS", 0.0)
    with embedded_valkey(tmp_path) as valkey, sqlite_ledger(tmp_path) as sessions:
        worker = Worker(WorkerSettings(data_dir=tmp_path), sessions, valkey.url)

        def run(job_id: str) -> None:
            if worker._jobs._claim(job_id):
                raise ValueError(f"cannot read {TEXT}")

        monkeypatch.setattr(worker._jobs, "run", run)
        assert worker._acquire()
        with sessions.begin() as s:
            ledger.jobs.create(s, "job", "round", {})
        client = redis_client(valkey.url, timeout_seconds=5.0)
        if not has_rq:
            client.execute_command("ACL", "SETUSER", "default", "-hset")
        for _ in range(1 if has_rq else 4):  # without RQ one job runs at a time
            worker._run_jobs(client)
        with sessions() as s:
            job = ledger.jobs.get(s, "job")
            assert (job.status, job.attempts) == ("failed", 3)
        if has_rq:
            (rq_worker,) = client.keys("rq:worker:*")
            assert client.hget(rq_worker, "successful_job_count") == b"3"
        client.close()
    written = [path for path in (tmp_path / "appendonlydir").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TEXT.encode() in path.read_bytes()]
