"""A candidate is published with its probe, and a promotion that every server refuses is told."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from tempo_storage import leases, queries, versions
from tempo_storage.adapters import PROBE_FILE, AdapterStore
from tempo_storage.database import open_database
from tempo_storage.models import Job
from tempo_trainer import promotion
from tempo_trainer.batch import Rollout
from tempo_trainer.evaluate import Answered, GateDecision, gate
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


def test_a_promotion_of_a_version_that_a_server_finds_corrupt_is_no_promotion(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = learner.world.sessions

    def servers_refuse(learner: Any, job_id: str, version: int) -> None:
        with sessions.begin() as s:
            versions.mark_corrupt(s, version, "vLLM does not serve what was trained")

    monkeypatch.setattr(promotion, "compare", lambda *_: passed_gate())
    monkeypatch.setattr(promotion, "wait_for_servers", servers_refuse)
    with sessions.begin() as s:
        job = queries.create_job(s, "job_1", "round", {})
    result = promotion.decide(learner, job)
    assert (result["decision"], result["serving"], result["checkpoint"]) == ("refused", 0, "")
    assert result["summary"] == "vLLM does not serve what was trained"
    with sessions() as s:
        assert queries.job(s, "job_1").result == result
        assert versions.serving(s).version == 0


def passed_gate() -> GateDecision:
    better = Answered(outcomes=np.ones((4, 2)), answers=[["a", "b"]] * 4)
    return gate(better, better, better, first=True, settings=tiny.settings())
