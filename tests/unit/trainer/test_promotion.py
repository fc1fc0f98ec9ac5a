"""A candidate is published with its probe, and a promotion that every server refuses is told."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from tempo_storage import leases, queries, versions
from tempo_storage.adapters import PROBE_FILE, AdapterStore
from tempo_storage.database import open_database
from tempo_storage.models import Job
from tempo_trainer.batch import Rollout
from tempo_trainer.promotion import publish_candidate, wait_for_servers

WINDOW = [[Rollout(name, [2, 3], [4, 5], [-1.0, -1.0], 0, "t", "stop", True, 1.0)] for name in "ab"]


@pytest.fixture
def learner(tmp_path: Path) -> Any:
    sessions = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with sessions.begin() as s:
        epoch = leases.acquire(s, leases.TRAINER, "me", 60.0)
        assert epoch is not None
    world = SimpleNamespace(
        sessions=sessions,
        store=AdapterStore(tmp_path / "adapters"),
        settings=tiny.settings(),
        base="tiny",
        epoch=lambda: epoch,
    )
    return SimpleNamespace(world=world, networks=tiny.networks(), window=WINDOW, checkpoint="c")


def test_a_candidate_is_published_with_what_a_server_probes_it_with(learner: Any) -> None:
    version = publish_candidate(learner, Job(id="job_1"), 0)
    assert version == 1
    assert set(learner.world.store.manifest("tempo-v1").sha256) >= {PROBE_FILE}
    learner.world.store.verify("tempo-v1", base="tiny", rank=8)


def test_a_promotion_that_every_server_refuses_is_told_at_once(learner: Any) -> None:
    publish_candidate(learner, Job(id="job_1"), 0)
    with learner.world.sessions.begin() as s:
        sequence = versions.promote(s, 1).sequence
        for process in "ab":
            versions.acknowledge(s, process, version=0, sequence=sequence, error="no LoRA here")
    started = time.monotonic()
    wait_for_servers(learner, "job_1", 1)
    assert time.monotonic() - started < 2
    with learner.world.sessions() as s:
        (event,) = [e for e in queries.events(s) if e.type == "adapter.behind"]
    assert event.message == "tempo-v1 is promoted, but not everywhere: no LoRA here"
