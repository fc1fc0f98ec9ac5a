"""Kill -9 of the worker where it saves: the round ends as if nothing had happened."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import expire_lease, finished, prepared
from sqlalchemy.orm import Session

from tempo_storage import ledger
from tempo_trainer.learning import checkpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.fault(
        2, "kill -9 at any step of a save", promise="whole or absent; what was left is swept"
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
            injected = {"PYTHONPATH": with_injection(), "KILL_AT": pattern}
            with server.worker(**injected) as process:
                assert process.wait(120) == -signal.SIGKILL
            with server.sessions() as s:
                found = committed(s, server, job.id)
            expire_lease(server)
        with server.worker():
            job = finished(tempo, job)
    assert job.status == "succeeded", job.error
    with server.sessions() as s:
        assert committed(s, server, job.id)[: len(found)] == found
    assert list(server.store.root.glob(".*")) == []
    record_property("observed", f"worker killed {len(KILLED_WORKERS)} times: {job.status}")


def with_injection() -> str:
    ours = str(Path(__file__).parent / "killed")
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))


def committed(s: Session, server: Any, job_id: str) -> list[tuple[int, int]]:
    """Return the committed iterations, each of which has a checkpoint that can be read."""
    rows = ledger.jobs.iterations(s, job_id)
    for row in rows:
        if row is rows[-1]:  # older ones are swept
            checkpoint.load(server.data_dir / "checkpoints", row.checkpoint)
    for name in server.store.names():
        server.store.manifest(name)
    return [(row.position, row.number) for row in rows]
