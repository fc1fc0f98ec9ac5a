"""A candidate is published with what a server checks it by, and with its lineage."""

import json
from pathlib import Path

import pytest
import torch
from learners import Parts, rollout
from ledgers import candidate, held_out, iteration, labeled_file
from safetensors.torch import load_file
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import PROBE_FILE
from tempo_storage.errors import LeaseLostError


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    worker = Parts(sessions, tmp_path)
    worker.learner.window = [[rollout("a")], [rollout("b")]]
    worker.learner.checkpoint = "c"
    return worker


def test_snapshots_have_names_of_their_own_and_the_newest_stay(parts: Parts) -> None:
    assert parts.publisher.publish_trial(parts.learner) == "tempo-v0"  # untrained: the base
    parts.learner.m_steps = 1
    names = [parts.publisher.publish_trial(parts.learner) for _ in range(5)]
    assert names == [f"tempo-t{number}" for number in range(1, 6)]
    assert parts.store.names() == names[-3:]
    with parts.sessions() as s:  # a server can check those that are there
        assert [bool(ledger.published.files(s, name)) for name in names] == [False] * 2 + [True] * 3


def test_a_candidate_is_published_with_what_a_server_probes_it_with(parts: Parts) -> None:
    version = parts.publisher.publish_candidate(parts.learner, "job_1")
    assert version == 1
    assert set(parts.store.manifest("tempo-v1").sha256) >= {PROBE_FILE}
    with parts.sessions() as s:
        files = ledger.published.files(s, "tempo-v1")
    parts.store.verify("tempo-v1", files, base="tiny", rank=2)


def test_a_candidate_s_parent_is_what_serves(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        s.add(candidate(1))
        s.flush()
        ledger.versions.promote(s, 1)
    assert parts.publisher.publish_candidate(parts.learner, "job_1") == 2
    with parts.sessions() as s:
        row = ledger.versions.adapter(s, 2)
    assert (row.parent, row.job_id, row.checkpoint, row.status) == (1, "job_1", "c", "candidate")


def test_a_version_serves_with_its_share_of_the_adapter_and_training_keeps_all(
    parts: Parts,
) -> None:
    weights = parts.learner.networks.adapter_parameters("policy")
    for name, parameter in weights.items():
        torch.nn.init.constant_(parameter, 0.1 if ".lora_B." in name else 0.2)
    exported, probed = [], []
    for scale in (1.0, 0.5):
        parts.settings = parts.settings.model_copy(update={"serving_scale": scale})
        version = parts.publisher.publish_candidate(parts.learner, "job_1")
        folder = parts.store.path(f"tempo-v{version}")
        exported.append(load_file(folder / "adapter_model.safetensors"))
        probed.append(json.loads((folder / PROBE_FILE).read_text())["sequences"][0]["policy"])
    whole, half = exported
    for name in whole:
        assert torch.allclose(half[name], whole[name] * (0.5 if "lora_B" in name else 1.0))
    assert probed[0] != probed[1]
    assert all(bool((p == 0.1).all()) for name, p in weights.items() if ".lora_B." in name)


def test_a_candidate_has_its_lineage_without_any_password(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.labeled.add_file(s, labeled_file("file_1", sha256="ab"), [])
        s.add_all([held_out("1 + 1"), iteration("j", 1, checkpoint="c")])
    digests = []
    for version in (1, 2):
        assert parts.publisher.publish_candidate(parts.learner, "job_1") == version
        with parts.sessions.begin() as s:
            lineage = ledger.versions.adapter(s, version).lineage
            digests.append(lineage["held out"].pop("sha256"))
            s.add(held_out(f"{version} + 2"))
    assert lineage["labeled files"] == {"file_1": "ab"}
    assert (lineage["checkpoint"], lineage["base"], lineage["metrics"]) == ("c", "tiny", {})
    assert lineage["held out"] == {"questions": 2}
    assert len(set(digests)) == 2
    assert (lineage["settings"]["lora_rank"], lineage["settings"]["group_size"]) == (2, 8)
    assert not {"database_url", "redis_url", "api_key"} & lineage["settings"].keys()
    assert "torch" in lineage["code"]


def test_a_worker_without_the_lease_adds_no_version(parts: Parts) -> None:
    parts.epoch = 7
    with pytest.raises(LeaseLostError):
        parts.publisher.publish_candidate(parts.learner, "job_1")
    with parts.sessions() as s:
        assert ledger.versions.adapters(s) == []
