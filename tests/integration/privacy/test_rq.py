"""A question's text is in no log and in no key of RQ, whatever a job of the worker raises."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canaries import canary, files_with
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker
from valkeys import embedded_valkey

from tempo_storage import ledger
from tempo_storage.valkey.streams import redis_client
from tempo_trainer.worker import process
from tempo_trainer.worker.process import Worker
from tempo_trainer.worker.rq_worker import LeaseWorker
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = pytest.mark.service

TEXT = canary("question")


def fail_in_python() -> None:
    raise ValueError(f"cannot read {TEXT}")


def fail_in_sql() -> None:
    detail = f"duplicate key\nDETAIL: Key (messages)=({TEXT}) already exists."
    raise IntegrityError("INSERT", {"messages": TEXT}, Exception(detail), hide_parameters=True)


FAILURES = [fail_in_python, fail_in_sql]


@pytest.mark.parametrize("has_valkey", [True, False])
@pytest.mark.parametrize("fail", FAILURES)
def test_a_job_that_breaks_off_is_tried_three_times_and_shows_no_text(
    fail: Callable[[], None],
    has_valkey: bool,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(process, "WAIT_SECONDS", 0.0)
    with embedded_valkey(tmp_path / "data") as valkey:
        worker = Worker(WorkerSettings(data_dir=tmp_path / "data"), sessions, valkey.url)

        def run(job_id: str) -> None:
            if worker._jobs._claim(job_id):
                fail()

        monkeypatch.setattr(worker._jobs, "run", run)
        assert worker._acquire()
        with sessions.begin() as s:
            ledger.jobs.create(s, "job", "round", {})
        client = redis_client(valkey.url, timeout_seconds=5.0)
        if not has_valkey:
            client.execute_command("ACL", "SETUSER", "default", "-hset")
        for _ in range(1 if has_valkey else 4):  # without RQ one job runs at a time
            worker._run_jobs(client)
        with sessions() as s:
            job = ledger.jobs.get(s, "job")
            assert (job.status, job.attempts) == ("failed", 3)
        assert sum("job job broke off" in record.getMessage() for record in caplog.records) == 3
        assert "fail()" in caplog.text  # the place is shown
        assert TEXT not in caplog.text
        assert files_with(TEXT, tmp_path) == []  # Valkey's file has all that RQ wrote
        if has_valkey:
            (rq_worker,) = client.keys("rq:worker:*")
            assert client.hget(rq_worker, "successful_job_count") == b"3"
        client.close()


@pytest.mark.parametrize("fail", FAILURES)
def test_a_ledger_that_fails_between_two_jobs_shows_no_text(
    fail: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    runs: list[str] = []
    with embedded_valkey(tmp_path) as valkey:
        client = redis_client(valkey.url, timeout_seconds=5.0)
        LeaseWorker(client, lambda: fail() if runs else "job", runs.append).work_until_idle()
        client.close()
    assert runs == ["job"]
    assert TEXT not in caplog.text
