"""Faults of the worker and of its stores: no step is lost or made twice, and every job ends."""

import glob
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from injection import INJECTED, kill_at_checkpoint
from processes import with_python_path
from rounds import expire_lease, finished, prepared
from traffic import ask
from waiting import eventually

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

OUTAGE_SECONDS = 14.0  # longer than any time-out of RQ
LIBRARY = "faketime/libfaketimeMT.so.1"
FAKETIME = os.environ.get("LIBFAKETIME", "").split() or glob.glob(f"/usr/lib/*/{LIBRARY}")
Observe = Callable[[str, object], None]


@pytest.fixture
def tempo(server: Any) -> Iterator[Tempo]:
    with prepared(server) as client:
        yield client
    server.valkey.restart_if_dead()


def iterations(server: Any, job: Job) -> list[tuple[int, int]]:
    """Return the position and the epoch of each committed iteration of a job."""
    with server.sessions() as s:
        return [(row.position, row.epoch) for row in ledger.jobs.iterations(s, job.id)]


def wait_for_position(server: Any, job: Job, position: int) -> None:
    """Return when a job has committed its iteration at `position`, or has failed."""

    def is_there() -> bool:
        with server.sessions() as s:
            failed = ledger.jobs.get(s, job.id).status == "failed"
        return failed or any(row[0] >= position for row in iterations(server, job))

    eventually(is_there, seconds=180)


def num_starts(tempo: Tempo, job: Job) -> int:
    return sum(event.type == "job.started" for event in tempo.jobs.events(job.id))


def stop_between_transactions(process: subprocess.Popen[bytes], server: Any) -> None:
    """Stop a process where it does not hold SQLite's write lock, with which nobody could write."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(server.data_dir / "tempo.db", timeout=1)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)


@pytest.mark.fault(7, "Valkey is wiped in a round", promise="jobs and adapters are intact")
def test_a_wiped_valkey_costs_neither_a_job_nor_an_adapter(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    with server.worker():
        job = tempo.jobs.create("round", max_steps=3)
        wait_for_position(server, job, 1)
        serving = tempo.status().serving_adapter
        names = server.store.names()
        waiting = tempo.jobs.create("recalibrate", max_steps=1)  # Valkey loses its entry
        server.stream._client.flushall()
        assert tempo.status().serving_adapter == serving
        assert set(server.store.names()) >= {name for name in names if "-v" in name}
        ask(server, "asked of an emptied Valkey")
        job = finished(tempo, job)
        waiting = finished(tempo, waiting)
        eventually(lambda: server.stream.backlog() == 0)
    assert (job.status, waiting.status) == ("succeeded", "succeeded"), (job.error, waiting.error)
    assert [position for position, _ in iterations(server, job)][-3:] == [1, 2, 3]
    record_property("observed", "round and the job behind it succeeded, each once")
    assert (num_starts(tempo, job), num_starts(tempo, waiting)) == (1, 1)


@pytest.mark.fault(8, "Valkey is down at a job's end", promise="the job does not run again")
def test_a_job_that_ends_while_valkey_is_down_does_not_run_again(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    with server.worker() as process:
        job = tempo.jobs.create("round", max_steps=2)
        wait_for_position(server, job, 1)
        server.valkey.process.kill()
        server.valkey.process.wait(10)
        job = finished(tempo, job)
        assert job.status == "succeeded", job.error
        done = iterations(server, job)
        time.sleep(OUTAGE_SECONDS)
        assert server.valkey.restart_if_dead()
        following = finished(tempo, tempo.jobs.create("recalibrate", max_steps=1))
        assert process.poll() is None
    assert following.status == "succeeded", following.error
    assert iterations(server, job) == done
    assert num_starts(tempo, job) == 1
    observed = f"down for {OUTAGE_SECONDS:.0f} s beyond the end: run once, the next job ran too"
    record_property("observed", observed)


@pytest.mark.fault(
    11,
    "the ledger is locked",
    promise="inference and reads go on; writes wait 5 s, then answer 503",
)
def test_a_job_goes_on_after_a_lock_on_the_ledger_in_the_middle_of_it(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    with server.worker():
        job = tempo.jobs.create("round", max_steps=3)
        wait_for_position(server, job, 1)
        lock = sqlite3.connect(server.data_dir / "tempo.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(OUTAGE_SECONDS)
        lock.execute("ROLLBACK")
        lock.close()
        job = finished(tempo, job)
    positions = [position for position, _ in iterations(server, job)]
    record_property("observed", f"a round locked out for {OUTAGE_SECONDS:.0f} s: {job.status}")
    assert job.status == "succeeded", job.error
    assert positions[-3:] == [1, 2, 3]


@pytest.mark.fault(
    15,
    "SIGSTOP of a worker beyond its lease",
    promise="another worker goes on; the commit of the first is refused",
)
def test_a_worker_that_slept_beyond_its_lease_commits_nothing_more(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    with server.worker() as first:
        job = tempo.jobs.create("round", max_steps=4)
        wait_for_position(server, job, 1)
        stop_between_transactions(first, server)
        stopped_at = time.monotonic()
        before = iterations(server, job)
        try:
            with server.worker():
                eventually(lambda: iterations(server, job) != before, seconds=90)
                seconds = time.monotonic() - stopped_at
                first.send_signal(signal.SIGCONT)
                job = finished(tempo, job)
        finally:
            first.send_signal(signal.SIGCONT)
    assert job.status == "succeeded", job.error
    rows = iterations(server, job)
    epochs = [epoch for _, epoch in rows]
    assert [position for position, _ in rows][-4:] == [1, 2, 3, 4]
    assert rows[: len(before)] == before
    assert len(set(epochs)) == 2
    assert epochs == sorted(epochs)  # the first worker commits nothing after the second
    record_property("observed", f"the next commit came {seconds:.0f} s after, none by the sleeper")


@pytest.mark.fault(
    17, "a job kills its worker", promise="it gets three tries; then the next job runs"
)
def test_a_job_that_kills_its_worker_fails_after_three_tries_and_the_next_one_runs(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    poison = tempo.jobs.create("round", max_steps=1)
    following = tempo.jobs.create("recalibrate", max_steps=1)
    deaths = 0

    def both_ended() -> bool:
        return all(tempo.jobs.retrieve(job.id).is_finished for job in (poison, following))

    while not both_ended():
        with server.worker(**kill_at_checkpoint(poison.id, 1)) as process:
            eventually(lambda dying=process: dying.poll() is not None or both_ended(), seconds=120)
            deaths += process.poll() == -signal.SIGKILL
        expire_lease(server)
    poison = tempo.jobs.retrieve(poison.id)
    following = tempo.jobs.retrieve(following.id)
    assert (poison.status, following.status) == ("failed", "succeeded"), following.error
    assert poison.error is not None
    record_property("observed", f"failed after {deaths} deaths; the job behind it succeeded")
    assert "3 workers in a row died of it" in poison.error.message
    assert deaths == 3


@pytest.mark.skipif(not FAKETIME, reason="no libfaketime; apt-get install libfaketime")
@pytest.mark.fault(16, "the clock jumps by an hour", promise="no step is lost or made twice")
def test_a_clock_that_jumps_forward_and_back_makes_no_step_twice(
    server: Any, tempo: Tempo, record_property: Observe, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    # libfaketime 0.9 moves the deadline of `time.sleep`, which is monotonic; it fails with EINVAL.
    (tmp_path / "sitecustomize.py").write_text(
        "import runpy, select, time\n"
        "time.sleep = lambda s: select.select([], [], [], s)\n"
        f"runpy.run_path({str(INJECTED / 'sitecustomize.py')!r})\n"
    )
    faked = with_python_path(tmp_path) | {
        "LD_PRELOAD": FAKETIME[0],
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a real clock that jumps leaves it alone, too
    }
    with server.worker(**faked), server.worker(**faked):  # one waits for the other's lease
        job = tempo.jobs.create("round", max_steps=8)
        for position, jump in ((1, "+1h"), (3, "+0"), (5, "-1h"), (7, "+0")):
            wait_for_position(server, job, position)
            clock.write_text(jump)
        job = finished(tempo, job)
    rows = iterations(server, job)
    assert job.status == "succeeded", job.error
    assert [position for position, _ in rows][-8:] == list(range(1, 9))
    epochs = [epoch for _, epoch in rows]
    assert epochs == sorted(epochs)
    moves = len(set(epochs)) - 1
    record_property("observed", f"8 steps, each once, in order; the lease changed hands {moves} x")
