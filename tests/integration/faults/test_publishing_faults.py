"""Kill -9 of the worker where it saves: the round ends as if nothing had happened."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from injection import kill_at
from rounds import expire_lease, finished, prepared

from tempo_storage import ledger
from tempo_trainer.learning import checkpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.fault(
        2,
        "kill -9 at any step of a save",
        promise="the save is whole or absent; leftovers are swept",
    ),
]

KILLED_WORKERS = {
    "before a checkpoint is named": r"os\.rename \S*/checkpoints/\.",
    "between a checkpoint and its commit": r"open \S*/checkpoints None",
    "before a version is named": r"os\.rename \S*/adapters/\.tempo-v",
}


def test_a_round_whose_workers_are_killed_at_each_save_ends_as_if_they_were_not(
    server: Any, record_property: Callable[[str, object], None]
) -> None:
    with prepared(server) as tempo:
        job = tempo.jobs.create("round", max_steps=1)
        for pattern in KILLED_WORKERS.values():
            with server.worker(**kill_at(pattern)) as process:
                assert process.wait(120) == -signal.SIGKILL
            committed = readable_iterations(server, job.id)
            expire_lease(server)
        with server.worker():
            job = finished(tempo, job)
    assert job.status == "succeeded", job.error
    assert readable_iterations(server, job.id)[: len(committed)] == committed
    assert list(server.store.root.glob(".*")) == []
    record_property("observed", f"worker killed {len(KILLED_WORKERS)} times: {job.status}")


def readable_iterations(server: Any, job_id: str) -> list[tuple[int, int]]:
    """Return position and number of the committed iterations; read the files that they need."""
    with server.sessions() as s:
        rows = ledger.jobs.iterations(s, job_id)
    if rows:  # the checkpoints of earlier ones are swept
        checkpoint.load(server.data_dir / "checkpoints", rows[-1].checkpoint)
    for name in server.store.names():
        server.store.manifest(name)
    return [(row.position, row.number) for row in rows]
