"""A candidate is published with its probe, and a promotion that every server refuses is told."""

import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from tempo_storage import ledger
from tempo_storage.adapters import PROBE_FILE, AdapterStore
from tempo_storage.ledger.models import Adapter, File, Iteration, Job, LabeledExample
from tempo_storage.ledger.sessions import open_database
from tempo_storage.questions import is_for_sentinel
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.errors import CancelledError
from tempo_trainer.sampling.sampler import Sample
from tempo_trainer.sampling.verifiers import Verdict
from tempo_trainer.versions import promotion
from tempo_trainer.versions.gate import Answered, GateDecision, gate
from tempo_trainer.versions.promotion import publish_candidate, wait_for_servers
from tempo_trainer.worker_settings import WorkerSettings

WINDOW = [[Rollout(name, [2, 3], [4, 5], [-1.0, -1.0], 0, "t", "stop", True, 1.0)] for name in "ab"]


@pytest.fixture
def learner(tmp_path: Path) -> Any:
    sessions = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with sessions.begin() as s:
        epoch = ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0)
        assert epoch is not None
    world = SimpleNamespace(
        sessions=sessions,
        store=AdapterStore(tmp_path / "adapters"),
        settings=WorkerSettings(data_dir=tmp_path, lora_rank=8, critic_rank=4, device="cpu"),
        base="tiny",
        epoch=lambda: epoch,
    )
    return SimpleNamespace(world=world, networks=tiny.networks(), window=WINDOW, checkpoint="c")


def test_a_candidate_is_published_with_what_a_server_probes_it_with(learner: Any) -> None:
    version = publish_candidate(learner, Job(id="job_1"), 0)
    assert version == 1
    assert set(learner.world.store.manifest("tempo-v1").sha256) >= {PROBE_FILE}
    learner.world.store.verify("tempo-v1", base="tiny", rank=8)


def test_a_version_serves_with_its_share_of_the_adapter_and_training_keeps_all(
    learner: Any,
) -> None:
    for name, parameter in learner.networks.adapter_parameters("policy").items():
        torch.nn.init.constant_(parameter, 0.1 if ".lora_B." in name else 0.2)
    exported, probed = [], []
    for version, scale in ((1, 1.0), (2, 0.5)):
        settings = learner.world.settings
        learner.world.settings = settings.model_copy(update={"serving_scale": scale})
        publish_candidate(learner, Job(id="job_1"), 0)
        folder = learner.world.store.path(f"tempo-v{version}")
        exported.append(load_file(folder / "adapter_model.safetensors"))
        probed.append(json.loads((folder / PROBE_FILE).read_text())["sequences"][0]["policy"])
    whole, half = exported
    for name in whole:
        assert torch.allclose(half[name], whole[name] * (0.5 if "lora_B" in name else 1.0))
    assert probed[0] != probed[1]
    weights = learner.networks.adapter_parameters("policy")
    assert all(bool((p == 0.1).all()) for name, p in weights.items() if ".lora_B." in name)


def test_a_candidate_says_what_it_came_of_and_no_password(learner: Any) -> None:
    file = File(id="file_1", filename="x", bytes=1, sha256="ab", summary={}, created_at=0.0)
    with learner.world.sessions.begin() as s:
        ledger.labeled.add_file(s, file, [held_out("h1")])
        s.add(Iteration(job_id="j", position=1, checkpoint="c", question_ids=[], epoch=1))
    digests = []
    for version in (1, 2):
        assert publish_candidate(learner, Job(id="job_1"), 0) == version
        with learner.world.sessions.begin() as s:
            found = ledger.versions.adapter(s, version).lineage
            digests.append(found["held out"].pop("sha256"))
            s.add(held_out(f"h{version + 1}"))
    assert found["labeled files"] == {"file_1": "ab"}
    assert (found["checkpoint"], found["base"], found["metrics"]) == ("c", "tiny", {})
    assert found["held out"] == {"questions": 2}
    assert len(set(digests)) == 2
    assert (found["settings"]["lora_rank"], found["settings"]["group_size"]) == (8, 8)
    assert not {"database_url", "redis_url", "api_key"} & found["settings"].keys()
    assert "torch" in found["code"]


def held_out(name: str) -> LabeledExample:
    return LabeledExample(
        content_hash=name,
        file_id="file_1",
        messages=[],
        reference=["1"],
        verifier="exact",
        details={},
        split="held_out",
    )


def test_a_promotion_that_every_server_refuses_is_told_at_once(learner: Any) -> None:
    publish_candidate(learner, Job(id="job_1"), 0)
    with learner.world.sessions.begin() as s:
        sequence = ledger.versions.promote(s, 1).sequence
        for process in "ab":
            ledger.versions.acknowledge(
                s, process, version=0, sequence=sequence, error="no LoRA here"
            )
    started = time.monotonic()
    wait_for_servers(learner, "job_1", 1)
    assert time.monotonic() - started < 2
    with learner.world.sessions() as s:
        (event,) = [e for e in ledger.events.find(s) if e.type == "adapter.behind"]
    assert event.message == "tempo-v1 is promoted, but not everywhere: no LoRA here"


def test_a_promotion_of_a_version_that_a_server_finds_corrupt_is_no_promotion(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = learner.world.sessions

    def servers_refuse(learner: Any, job_id: str, version: int) -> None:
        with sessions.begin() as s:
            ledger.versions.mark_corrupt(s, version, "vLLM does not serve what was trained")

    monkeypatch.setattr(promotion, "compare", lambda *_: passed_gate())
    monkeypatch.setattr(promotion, "wait_for_servers", servers_refuse)
    with sessions.begin() as s:
        job = ledger.jobs.create(s, "job_1", "round", {})
        job.serving_sequence = 0
    result = promotion.decide(learner, job)
    assert (result["decision"], result["sequence"], result["checkpoint"]) == ("refused", 2, "")
    assert result["summary"] == "vLLM does not serve what was trained"
    with sessions() as s:
        assert ledger.jobs.get(s, "job_1").result == result
        assert ledger.versions.serving(s).version == 0


def test_a_round_whose_start_was_taken_back_is_not_promoted(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = learner.world.sessions

    def rolled_back_meanwhile(*_: object) -> GateDecision:
        with sessions.begin() as s:
            ledger.versions.roll_back(s, to=ledger.versions.BASE)
        return passed_gate()

    with sessions.begin() as s:
        row = Adapter(version=1, parent=0, status="candidate", job_id="j", sha256="")
        row.checkpoint, row.bytes = "c1", 0
        s.add(row)
        s.flush()
        job = ledger.jobs.create(s, "job_1", "round", {})
        job.serving_sequence = ledger.versions.promote(s, 1).sequence
    monkeypatch.setattr(promotion, "compare", rolled_back_meanwhile)
    with pytest.raises(CancelledError, match="tempo-v0 was made to serve since the job began"):
        promotion.decide(learner, job)
    with sessions() as s:
        assert ledger.versions.serving(s).version == ledger.versions.BASE
        assert ledger.jobs.get(s, "job_1").result == {}
    with pytest.raises(CancelledError):
        promotion.decide(learner, job)


def test_the_gate_asks_its_half_and_says_what_it_took(learner: Any) -> None:
    file = File(id="file_1", filename="x", bytes=1, sha256="ab", summary={}, created_at=0.0)
    names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    asked: dict[str, set[str]] = {}

    def judged(examples: Any, adapter: str, *, n: int) -> Any:
        asked[adapter] = {example.content_hash for example in examples}
        outcome = 1.0 if adapter == "tempo-v2" else -1.0
        samples = [[Sample((1, 2, 3), (), "", "stop")] * n for _ in examples]
        return [], samples, [[Verdict(outcome > 0, "4", "")] * n for _ in examples]

    learner.world.settings = WorkerSettings(gate_samples=4)
    learner.judged = judged
    with learner.world.sessions.begin() as s:
        ledger.labeled.add_file(s, file, [held_out(name) for name in names])
    decision = promotion.compare(learner, 2, 1)
    assert len(set(map(frozenset, asked.values()))) == 1
    assert asked.keys() == {"tempo-v0", "tempo-v1", "tempo-v2"}
    mine = {name for name in names if not is_for_sentinel(name)}
    assert (asked["tempo-v2"], decision.questions) == (mine, len(mine))
    assert decision.held_out == "the gate's half of 200"
    assert decision.cost["responses"] == 3 * 4 * len(mine)
    assert decision.samples["candidate"] == {
        "avg_at_k": 1.0,
        "pass_at_k": 1.0,
        "entropy": 0.0,
        "mean_tokens": 3.0,
    }
    assert decision.samples["serving"]["avg_at_k"] == 0.0


def passed_gate() -> GateDecision:
    better = Answered(outcomes=np.ones((4, 2)), answers=[["a", "b"]] * 4)
    return gate(better, better, better, first=True, settings=tiny.settings())
