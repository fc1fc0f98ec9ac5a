"""Samples from vLLM: a policy is published whenever it has changed, and one run goes at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_data
import torch

from tempo_lab.study import main, plan, served
from tempo_lab.study.questions import Question
from tempo_lab.study.served import ServedSampler, served_model
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.errors import AdapterMismatchError, InvalidInputError
from tempo_trainer.algorithm.networks import CRITIC, POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample, SamplingError
from tempo_trainer.settings import TrainerSettings
from tempo_trainer.worker_settings import WorkerSettings

PROMPT = Prompt("q", (1, 2))


class Server:
    """A fake of the worker's sampler that records the adapters it samples from."""

    def __init__(self) -> None:
        self.adapters: list[str] = []
        self.decodings: list[Decoding] = []
        self.template_arguments: list[dict[str, Any]] = []
        self.max_words = 3
        self.response = Sample((3,), (-0.5,), "ok", "stop")

    def prompts(self, questions: Sequence[Any]) -> list[Prompt]:
        self.template_arguments += [q.chat_template_kwargs for q in questions]
        words = {q.content_hash: q.messages[0]["content"].split() for q in questions}
        short = {id: own for id, own in words.items() if len(own) <= self.max_words}
        return [Prompt(id, tuple(map(int, own))) for id, own in short.items()]

    def sample(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, decoding: Decoding
    ) -> list[list[Sample]]:
        self.adapters.append(adapter)
        self.decodings.append(decoding)
        return [[self.response] * n for _ in prompts]


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
def sampler(
    networks: Networks, server: Server, store: AdapterStore, sessions: Any
) -> ServedSampler:
    return ServedSampler(networks, server, store, sessions, base="base")


def question(text: str, **template: Any) -> Question:
    return Question("q", [{"role": "user", "content": text}], "exact", {}, template)


def learn(networks: Networks, adapter: str = POLICY) -> None:
    with torch.no_grad():
        for parameter in networks.adapter_parameters(adapter).values():
            parameter += 0.1


def sampled_adapter(sampler: ServedSampler, server: Server) -> str:
    """Return the adapter from which the next responses are sampled."""
    sampler.sample([PROMPT], n=2, seed=0)
    return server.adapters[-1]


def test_the_base_is_sampled_until_the_policy_has_changed(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore
) -> None:
    assert sampled_adapter(sampler, server) == "tempo-v0"
    learn(networks, CRITIC)
    assert sampled_adapter(sampler, server) == "tempo-v0"
    assert store.names() == []
    learn(networks)
    assert sampled_adapter(sampler, server) == "tempo-t1"


def test_vllm_draws_tokens_as_the_caller_says_and_rollouts_at_temperature_1(
    sampler: ServedSampler, server: Server
) -> None:
    users = Decoding(0.6, 0.9, 20)
    sampler.sample([PROMPT], n=2, seed=0)
    sampler.sample([PROMPT], n=2, seed=0, decoding=users)
    assert server.decodings == [PLAIN, users]


def test_a_policy_is_published_once_until_it_changes(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore, sessions: Any
) -> None:
    names = []
    for _ in range(4):
        learn(networks)
        names += [sampled_adapter(sampler, server), sampled_adapter(sampler, server)]
    assert names == [f"tempo-t{number}" for number in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert store.names() == ["tempo-t2", "tempo-t3", "tempo-t4"]
    assert store.manifest("tempo-t4").base == "base"
    with sessions() as s:
        assert ledger.published.files(s, "tempo-t4") == store.manifest("tempo-t4").files


def test_a_restored_policy_is_published_anew(
    networks: Networks, sampler: ServedSampler, server: Server, store: AdapterStore, sessions: Any
) -> None:
    learn(networks)
    state = networks.state_dict()
    assert sampled_adapter(sampler, server) == "tempo-t1"
    fresh = Networks.load(study_data.base(), TrainerSettings(**study_data.SETTINGS))
    resumed = ServedSampler(fresh, server, store, sessions, base="base")
    fresh.load_state_dict(state)
    assert sampled_adapter(resumed, server) == "tempo-t2"
    assert store.manifest("tempo-t1").sha256 == store.manifest("tempo-t2").sha256


def test_a_question_has_the_servers_tokens_and_must_leave_room_for_a_response(
    sampler: ServedSampler,
) -> None:
    assert sampler.prompt(question("1 2 3")) == Prompt("q", (1, 2, 3))
    with pytest.raises(InvalidInputError, match=r"no room for a response: '1 2 3 4'"):
        sampler.prompt(question("1 2 3 4"))


def test_the_server_gets_the_arguments_of_a_questions_chat_template(
    sampler: ServedSampler, server: Server
) -> None:
    sampler.prompt(question("1"))
    sampler.prompt(question("1", enable_thinking=False))
    assert server.template_arguments == [{}, {"enable_thinking": False}]


@pytest.mark.parametrize(
    "broken", [Sample((3,), (-0.5,), "o", "abort"), Sample((), (), "", "stop")]
)
def test_a_response_that_vllm_broke_off_ends_the_run(
    broken: Sample, sampler: ServedSampler, server: Server
) -> None:
    server.response = broken
    with pytest.raises(SamplingError, match="the same command continues"):
        sampler.sample([PROMPT], n=2, seed=0)


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the server says it serves."""
    monkeypatch.setenv("TEMPO_API_KEY", "tk_x")
    monkeypatch.setattr(served, "served_base", lambda settings, key: str(tmp_path / "base"))
    return tmp_path


def test_a_model_that_the_server_does_not_serve_is_refused(
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


def test_a_wrong_model_is_one_line_and_starts_no_run(
    serving: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(serving)
    spec = study_data.spec(serving)
    files = ["--labeled", spec.labeled, "--unlabeled", spec.unlabeled, "--out", "out"]
    assert main.main([*files, "--model", "/not/there"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert output.startswith("study failed: cannot load /not/there: ")
    assert output.endswith("or the id of a model on the hub")
    assert not Path("out").exists()


def test_a_variable_sets_the_length_of_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPO_MAX_RESPONSE_TOKENS", raising=False)
    assert main._default_length() == {"max_response_tokens": 256}
    monkeypatch.setenv("TEMPO_MAX_RESPONSE_TOKENS", "64")
    assert main._default_length() == {}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--temperature=-1", "-1 is no temperature; give 0 or more"),
        ("--temperature=inf", "inf is no temperature; give 0 or more"),
        ("--temperature=nan", "nan is no temperature; give 0 or more"),
        ("--top-p=0", "0 is not above 0 and up to 1"),
        ("--top-p=1.1", "1.1 is not above 0 and up to 1"),
    ],
)
def test_a_sampling_that_vllm_would_refuse_is_refused(
    option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--labeled", "a", "--unlabeled", "b", "--out", "out", "--model", "m"]
    with pytest.raises(SystemExit):
        main.main([*files, option])
    assert message in capsys.readouterr().err


def test_runs_that_share_a_servers_store_go_one_by_one(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path)
    other = replace(spec, sampler="vllm")
    assert plan._pool_size({tmp_path: [spec, spec]}, 4) == 4
    assert plan._pool_size({tmp_path: [spec], tmp_path / "b": [spec, other]}, 4) == 1


def test_a_runs_settings_hold_for_the_server_too(tmp_path: Path) -> None:
    spec = study_data.spec(tmp_path, sampler="vllm", seed=3)
    settings = spec.worker_settings()
    assert (settings.max_response_tokens, settings.seed) == (9, 3)
