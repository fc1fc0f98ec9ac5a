"""The study's samples from vLLM: published when the policy has changed, one run at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_data
import torch

from tempo_lab.study import main, plan, served
from tempo_lab.study.served import ServedSampler, served_model
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import AdapterMismatchError, InvalidInputError
from tempo_trainer.algorithm.networks import CRITIC, POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample, SamplingError
from tempo_trainer.settings import TrainerSettings
from tempo_trainer.worker_settings import WorkerSettings

PROMPT = Prompt("q", (1, 2))


class Server:
    """The place of the worker's sampler: remembers who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.longest = 3
        self.answer = Sample((3,), (-0.5,), "ok", "stop")

    def prompts(self, questions: Sequence[Any]) -> list[Prompt]:
        found = [(q.content_hash, q.messages[0]["content"].split()) for q in questions]
        return [Prompt(own, tuple(map(int, w))) for own, w in found if len(w) <= self.longest]

    def sample(self, prompts: Sequence[Prompt], *, adapter: str, n: int) -> list[list[Sample]]:
        self.asked.append(adapter)
        return [[self.answer] * n for _ in prompts]


@pytest.fixture
def networks() -> Networks:
    return Networks.load(study_data.base(), TrainerSettings(**study_data.SETTINGS))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def sampler(networks: Networks, server: Server, store: AdapterStore) -> ServedSampler:
    return ServedSampler(networks, server, store, base="base")


def learn(networks: Networks, role: str = POLICY) -> None:
    with torch.no_grad():
        for parameter in networks.adapter_parameters(role).values():
            parameter += 0.1


def asked(sampler: ServedSampler, server: Server) -> str:
    sampler.sample([PROMPT], n=2, seed=0)
    return server.asked[-1]


def test_the_base_is_asked_until_the_policy_has_changed(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore
) -> None:
    assert asked(sampler, server) == "tempo-v0"
    learn(networks, CRITIC)
    assert asked(sampler, server) == "tempo-v0"
    assert store.names() == []
    learn(networks)
    assert asked(sampler, server) == "tempo-t1"


def test_a_policy_is_published_once_and_again_when_it_has_changed(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore
) -> None:
    names = []
    for _ in range(4):
        learn(networks)
        names += [asked(sampler, server), asked(sampler, server)]
    assert names == [f"tempo-t{number}" for number in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert store.names() == ["tempo-t2", "tempo-t3", "tempo-t4"]
    assert store.manifest("tempo-t4").base == "base"


def test_a_restored_policy_is_published_anew(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore
) -> None:
    learn(networks)
    state = networks.state_dict()
    assert asked(sampler, server) == "tempo-t1"
    fresh = Networks.load(study_data.base(), TrainerSettings(**study_data.SETTINGS))
    resumed = ServedSampler(fresh, server, store, base="base")
    fresh.load_state_dict(state)
    assert asked(resumed, server) == "tempo-t2"
    hashes = [store.manifest(name).sha256 for name in ("tempo-t1", "tempo-t2")]
    assert hashes[0] == hashes[1]


def test_a_question_is_what_the_server_tokenises(sampler: ServedSampler) -> None:
    assert sampler.prompt("q", [{"role": "user", "content": "1 2 3"}]) == Prompt("q", (1, 2, 3))
    with pytest.raises(InvalidInputError, match=r"no room for a response: '1 2 3 4'"):
        sampler.prompt("q", [{"role": "user", "content": "1 2 3 4"}])


@pytest.mark.parametrize(
    "broken", [Sample((3,), (-0.5,), "o", "abort"), Sample((), (), "", "stop")]
)
def test_a_response_that_vllm_broke_off_ends_the_run(
    broken: Sample, sampler: ServedSampler, server: Server
) -> None:
    server.answer = broken
    with pytest.raises(SamplingError, match="the same command continues"):
        sampler.sample([PROMPT], n=2, seed=0)


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the server says it serves."""
    monkeypatch.setenv("TEMPO_API_KEY", "tk_x")
    monkeypatch.setattr(served, "served_base", lambda settings, key: str(tmp_path / "base"))
    return tmp_path


def test_another_model_than_the_served_one_is_refused(
    serving: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(serving)
    (serving / "link").symlink_to(serving / "base")
    for same in ("base", "link", str(serving / "base")):
        assert served_model(WorkerSettings(), same) == str(serving / "base")
    with pytest.raises(AdapterMismatchError, match="which is not 'other'; give --model"):
        served_model(WorkerSettings(), "other")
    spec = study_data.spec(serving)
    files = ["--labeled", spec.labeled, "--unlabeled", spec.unlabeled, "--out", "out"]
    assert main.main([*files, "--model", "other", "--sampler", "vllm"]) == 1
    assert "which is not 'other'" in " ".join(capsys.readouterr().out.split())
    assert not Path("out").exists()


def test_a_variable_says_how_long_a_response_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPO_MAX_RESPONSE_TOKENS", raising=False)
    assert main._length() == {"max_response_tokens": 256}
    monkeypatch.setenv("TEMPO_MAX_RESPONSE_TOKENS", "64")
    assert main._length() == {}  # so that the settings' own holds


def test_runs_that_share_a_server_s_store_go_one_by_one(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path)
    other = replace(spec, sampler="vllm")
    assert plan._at_once({tmp_path: [spec, spec]}, 4) == 4
    assert plan._at_once({tmp_path: [spec], tmp_path / "b": [spec, other]}, 4) == 1


def test_the_server_is_asked_with_the_run_s_own_settings(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, sampler="vllm", seed=3)
    settings = spec.worker_settings()
    assert (settings.max_response_tokens, settings.seed) == (9, 3)
    ours = spec.trainer_settings().model_dump()
    assert {name: getattr(settings, name) for name in ours} == ours
