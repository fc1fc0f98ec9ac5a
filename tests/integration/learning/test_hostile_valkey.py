"""A worker on a Valkey to which an attacker writes: it lives, and runs honest jobs only."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from forgeries import REFUSED, UNREAD, command
from ledgers import sqlite_ledger
from processes import clean_environment
from sqlalchemy.orm import Session, sessionmaker
from valkeys import embedded_valkey
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.ledger.models import Event
from tempo_storage.valkey.doorbell import RINGS, Refused, ring
from tempo_storage.valkey.streams import redis_client
from tempo_trainer.sessions import LeasedSessions
from tempo_trainer.worker import refusals
from tempo_trainer.worker.refusals import Refusals

pytestmark = pytest.mark.service
START_SECONDS = 60.0


@pytest.fixture
def attacker(tmp_path: Path) -> Iterator[redis.Redis]:
    with (
        embedded_valkey(tmp_path) as valkey,
        redis_client(valkey.url, timeout_seconds=20.0) as client,
    ):
        yield client


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    with sqlite_ledger(tmp_path) as sessions:
        yield sessions


@pytest.fixture
def worker(tmp_path: Path, attacker: redis.Redis) -> Iterator[subprocess.Popen[bytes]]:
    # It finds no server, so a job fails after its start; the start is what these tests look for.
    env = clean_environment() | {
        "TEMPO_DATA_DIR": str(tmp_path),
        "TEMPO_BASE_URL": "http://127.0.0.1:1",
        "TEMPO_API_KEY": "none",
        "TEMPO_DIE_WITH_PARENT": "1",
    }
    (tmp_path / "cwd").mkdir()
    # Python would find these modules first if it looked in the working directory.
    for name in ("rq", "redis", "sqlalchemy", "tempo_trainer", "forged"):
        (tmp_path / "cwd" / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    command = [sys.executable, "-P", "-m", "tempo_trainer.worker"]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path / "cwd", stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    yield process
    process.kill()
    process.wait(10)


def events(sessions: sessionmaker[Session], kind: str) -> list[Event]:
    with sessions() as s:
        return [event for event in ledger.events.find(s) if event.type == kind]


def start_of_a_job(sessions: sessionmaker[Session], job_id: str) -> bool:
    return any(event.job_id == job_id for event in events(sessions, "job.started"))


def queue_check(sessions: sessionmaker[Session], job_id: str) -> None:
    with sessions.begin() as s:
        ledger.jobs.create(s, job_id, "check", {})


@pytest.mark.attack(
    "Valkey",
    "all forged jobs and commands at a worker process, with modules in its working directory",
    promise="nothing runs, an honest job starts, an event says so",
)
def test_forged_jobs_and_commands_run_nothing_and_stop_nothing(
    attacker: redis.Redis,
    sessions: sessionmaker[Session],
    worker: subprocess.Popen[bytes],
    tmp_path: Path,
    seen: Callable[[object], None],
) -> None:
    def has_lease() -> bool:
        with sessions() as s:
            return ledger.leases.current(s) is not None

    eventually(has_lease, seconds=START_SECONDS)
    for forge in (*REFUSED.values(), *UNREAD.values()):
        forge(attacker, tmp_path / "canary")
        eventually(lambda: not attacker.exists(RINGS), seconds=20)
    attacker.rpush(RINGS, "forged.job")
    for name in ("shutdown", "kill-horse", "stop-job", "stop-execution") * 3:
        command(attacker, name)
    (first, *_) = eventually(lambda: events(sessions, "doorbell.refused"), seconds=20)
    assert (first.level, first.data["jobs"] > 0) == ("error", True)
    assert "another program writes to this Valkey" in first.message
    queue_check(sessions, "ftjob-honest")
    assert ring(attacker, "ftjob-honest")
    eventually(lambda: start_of_a_job(sessions, "ftjob-honest"), seconds=20)
    assert worker.poll() is None
    assert not (tmp_path / "canary").exists()
    seen(f"{first.data['jobs']} jobs refused at first; the worker lives: {worker.poll() is None}")


@pytest.mark.attack(
    "Valkey",
    "a Valkey that takes no ring and no job",
    promise="the job in the ledger runs all the same",
)
def test_a_job_runs_although_no_ring_can_be_queued(
    attacker: redis.Redis,
    sessions: sessionmaker[Session],
    worker: subprocess.Popen[bytes],
    seen: Callable[[object], None],
) -> None:
    attacker.execute_command("ACL", "SETUSER", "default", "-rpush", "-hset", "-blpop", "-sadd")
    queue_check(sessions, "ftjob-honest")
    assert not ring(attacker, "ftjob-honest")
    eventually(lambda: start_of_a_job(sessions, "ftjob-honest"), seconds=START_SECONDS)
    assert worker.poll() is None
    seen(f"started; the worker lives: {worker.poll() is None}")


def test_a_flood_of_forged_jobs_writes_one_event_a_minute_with_their_number(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sessions.begin() as s:
        epoch = ledger.leases.acquire(s, "me", 60)
    log = Refusals(LeasedSessions(sessions, lambda: epoch or 0))
    log.add(Refused())
    assert events(sessions, "doorbell.refused") == []
    for _ in range(1000):
        log.add(Refused(jobs=2, commands=1))
    (first,) = events(sessions, "doorbell.refused")
    assert first.data == {"jobs": 2, "commands": 1}
    start = time.monotonic()
    monkeypatch.setattr(refusals.time, "monotonic", lambda: start + refusals.EVENT_SECONDS + 60)
    log.add(Refused())
    _, second = events(sessions, "doorbell.refused")
    assert second.data == {"jobs": 1998, "commands": 999}
