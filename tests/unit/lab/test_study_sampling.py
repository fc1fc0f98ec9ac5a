"""The in-process sampler: log-probabilities, ends of responses, seeds and frequencies."""

import json
import math
from pathlib import Path

import pytest
import study_data
import torch

from tempo_lab.study.questions import Question
from tempo_lab.study.sampling import LocalSampler, next_token, seed_of, users_decoding
from tempo_lab.tasks.base import BOS, EOS
from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.networks import CRITIC, POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.settings import TrainerSettings

LENGTH = 9
SETTINGS = TrainerSettings(**study_data.SETTINGS | {"max_response_tokens": LENGTH})
PROMPTS = [Prompt(str(n), tuple(range(4, 4 + n))) for n in (3, 5, 3, 4)]


@pytest.fixture(scope="module")
def networks() -> tuple[Networks, str]:
    """Return networks whose two adapters differ from the base and from each other."""
    model = str(study_data.base())
    nets = Networks.load(model, SETTINGS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in (POLICY, CRITIC):
            for parameter in nets.adapter_parameters(adapter).values():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return nets, model


@pytest.fixture(scope="module")
def sampler(networks: tuple[Networks, str]) -> LocalSampler:
    return LocalSampler(*networks, SETTINGS)


def rollouts(groups: list[list[Sample]]) -> list[Rollout]:
    return [
        Rollout("q", prompt.ids, s.ids, s.logprobs, row, s.finish_reason, labeled=False)
        for row, (prompt, group) in enumerate(zip(PROMPTS, groups, strict=True))
        for s in group
    ]


@pytest.mark.parametrize("decoding", [PLAIN, GREEDY, Decoding(0.5, 0.9, 5)])
def test_log_probabilities_are_those_of_the_policy_before_temperature_and_truncation(
    decoding: Decoding, networks: tuple[Networks, str], sampler: LocalSampler
) -> None:
    nets, _ = networks
    groups = sampler.sample(PROMPTS, n=16, seed=1, decoding=decoding)
    batch = Batch.collate(rollouts(groups), nets.pad_id)
    with torch.no_grad():
        own = nets.policy.logprobs(batch)
        base = nets.base_logprobs(batch)
    assert torch.allclose(batch.sampled_logprobs, own, atol=1e-5)
    assert not torch.allclose(batch.sampled_logprobs, base, atol=0.1)


def test_a_response_ends_with_its_first_end_of_sequence_or_at_its_longest(
    sampler: LocalSampler,
) -> None:
    samples = [s for group in sampler.sample(PROMPTS, n=64, seed=2) for s in group]
    stopped = [s for s in samples if s.finish_reason == "stop"]
    truncated = [s for s in samples if s.finish_reason == "length"]
    assert len(stopped) + len(truncated) == len(samples)
    assert min(len(stopped), len(truncated)) > 5
    assert all(s.ids[-1] == EOS and EOS not in s.ids[:-1] for s in stopped)
    assert all(len(s.ids) == LENGTH and EOS not in s.ids for s in truncated)
    assert all(len(s.logprobs) == len(s.ids) for s in samples)
    assert {len(s.ids) for s in stopped} > {2, 3}  # rows of one batch end at different places
    assert not any("<eos>" in s.text for s in samples)


def test_sampling_stops_when_every_row_has_ended(
    sampler: LocalSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "_ends", tuple(range(200)))
    assert {s.ids for s in sampler.sample(PROMPTS[:1], n=8, seed=0)[0] if len(s.ids) > 1} == set()


def test_the_seed_decides_the_responses(sampler: LocalSampler) -> None:
    first, again, other = (sampler.sample(PROMPTS, n=4, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_tokens_are_as_frequent_as_the_policy_says(
    networks: tuple[Networks, str], sampler: LocalSampler
) -> None:
    (group,) = sampler.sample(PROMPTS[:1], n=4000, seed=3)
    firsts = torch.tensor([s.ids[0] for s in group])
    every = range(len(study_data.RECIPE.vocabulary))
    rows = [Rollout("q", PROMPTS[0].ids, [t], [0.0], 0, "stop", labeled=False) for t in every]
    with torch.no_grad():
        p = networks[0].policy.logprobs(Batch.collate(rows, 0)).exp()[:, 0]
    shares = torch.bincount(firsts, minlength=len(p)) / len(group)
    assert float((shares - p).abs().sum()) < 0.2  # 0.1 on average for draws of this distribution
    assert float(p.max()) < 0.9  # temperature 0 would not pass


def test_a_seed_depends_on_all_of_its_parts() -> None:
    assert seed_of(0, "train", 8) == seed_of(0, "train", 8)
    assert len({seed_of(0, "train", 8), seed_of(1, "train", 8), seed_of(0, "train", 16)}) == 3


P = [0.4, 0.3, 0.2, 0.1]
"""Probabilities of four tokens."""


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (PLAIN, P),
        (GREEDY, [1, 0, 0, 0]),
        (Decoding(top_k=1), [1, 0, 0, 0]),
        (Decoding(temperature=0.5), [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        (Decoding(temperature=1e-4), [1, 0, 0, 0]),  # does not underflow
        (Decoding(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(top_k=9), P),
        (Decoding(top_p=0.69), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(top_p=0.71), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Decoding(top_p=0.01), [1, 0, 0, 0]),
        # Of two tokens, 4/7 is more than half: top_p counts what top_k has left.
        (Decoding(top_p=0.55, top_k=2), [1, 0, 0, 0]),
        # At half the temperature two tokens reach .8, and at temperature 1 three do.
        (Decoding(temperature=0.5, top_p=0.8), [0.16 / 0.25, 0.09 / 0.25, 0, 0]),
    ],
)
def test_tokens_are_drawn_at_the_temperature_and_from_the_most_probable_ones(
    decoding: Decoding, expected: list[float]
) -> None:
    order = [2, 0, 3, 1]  # the most probable token is not the first one
    log_p = torch.tensor([P[place] for place in order]).log().repeat(20_000, 1)
    tokens = next_token(log_p, decoding, torch.Generator().manual_seed(0))
    assert tokens.shape == (20_000, 1)
    shares = torch.bincount(tokens[:, 0], minlength=4) / len(tokens)
    for token, place in enumerate(order):
        reach = 5 * math.sqrt(expected[place] * (1 - expected[place]) / len(tokens))
        assert abs(float(shares[token]) - expected[place]) <= reach + 1e-6


def test_a_question_is_rendered_with_the_arguments_of_its_chat_template(
    sampler: LocalSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sampler._tokenizer,
        "chat_template",
        "{{ '<bos> ' if loud else '' }}{{ messages[0].content }}",
    )
    messages = [{"role": "user", "content": "x + 1 = 4 ?"}]
    plain = sampler.prompt(Question("q", messages, "exact", {}))
    loud = sampler.prompt(Question("q", messages, "exact", {}, {"loud": True}))
    assert loud.ids == (BOS, *plain.ids)


def test_greedy_responses_are_all_alike_and_do_not_depend_on_the_seed(
    sampler: LocalSampler,
) -> None:
    first = sampler.sample(PROMPTS, n=3, seed=1, decoding=GREEDY)
    assert first == sampler.sample(PROMPTS, n=3, seed=2, decoding=GREEDY)
    assert all(len(set(group)) == 1 for group in first)
    hot = sampler.sample(PROMPTS, n=3, seed=1)
    assert not all(len(set(group)) == 1 for group in hot)


@pytest.mark.parametrize(
    ("config", "temperature", "top_p", "expected"),
    [
        (None, None, None, PLAIN),
        ({}, None, None, PLAIN),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, None, None, Decoding(0.6, 0.95, 20)),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, 0.0, 1.0, Decoding(0.0, 1.0, 20)),
        ({"temperature": None, "top_k": -1}, None, 0.9, Decoding(1.0, 0.9, 0)),
    ],
)
def test_the_users_sampling_is_the_models_unless_the_options_say_otherwise(
    config: dict[str, float | None] | None,
    temperature: float | None,
    top_p: float | None,
    expected: Decoding,
    tmp_path: Path,
) -> None:
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert users_decoding(str(tmp_path), temperature, top_p) == expected
