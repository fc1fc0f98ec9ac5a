"""The further arms: their formulas by hand, two critics, the flipped reward, and the gate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_data
import tiny
import torch

from tempo_lab.study import dissent, gating, variants
from tempo_lab.study import run as study_run
from tempo_lab.study.critics import TwoCritics, half
from tempo_lab.study.dissent import dissent_advantages
from tempo_lab.study.lab import Lab, Spec
from tempo_lab.study.methods import warm_up
from tempo_lab.study.questions import Data
from tempo_lab.study.rewards import pass_at_k_advantages
from tempo_lab.study.run import run
from tempo_lab.study.trapo import correlated_questions, remember
from tempo_trainer.algorithm import em
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import em_step
from tempo_trainer.algorithm.networks import POLICY


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "VerifierPool", study_data.Verifiers)


@pytest.fixture
def proven_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base this small is seldom right, so no critic is proven on its responses."""
    for module in (em, variants):
        monkeypatch.setattr(module, "refusal_reason", lambda *_: "")


def lab_of(spec: Spec) -> Lab:
    data = Data.load(spec.labeled, spec.unlabeled)
    return Lab(spec, data, study_data.Verifiers(["numeric"]))


def batch_of(outcomes: list[list[float]], *, question: int = 0) -> Batch:
    """Return one-token responses with these outcomes, a row for each group."""
    rows = [
        Rollout(f"{question + group}", [1], [2], [-1.0], group, "stop", True, outcome)
        for group, row in enumerate(outcomes)
        for outcome in row
    ]
    return Batch.collate(rows, 0)


def lines(path: Path) -> list[dict[str, Any]]:
    every = [json.loads(text) for text in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in every]


# Formulas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "of_right", "of_wrong"), [(1, 1.732, -0.247), (4, 0.522, -0.522), (7, 0.0, 0.0)]
)
def test_pass_at_2_advantages_raise_rare_right_answers_most(
    right: int, of_right: float, of_wrong: float
) -> None:
    outcome = torch.tensor([1.0] * right + [-1.0] * (8 - right) + [torch.nan] * 8)
    group = torch.tensor([3] * 8 + [4] * 8)
    expected = [of_right] * right + [of_wrong] * (8 - right) + [0.0] * 8
    advantages = pass_at_k_advantages(outcome, group, k=2)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-3)


def test_only_answers_against_a_vote_of_two_or_more_are_punished() -> None:
    answers = [["7", "7", "3", ""], ["1", "2", "3", "4"], ["5"] * 4, [""] * 4]
    expected = [0, 0, -1, -1, *[0] * 12]
    assert dissent_advantages(answers).tolist() == expected
    seven_of_eight = dissent_advantages([["9"] * 7 + ["8"]]).tolist()
    assert seven_of_eight == pytest.approx([0] * 7 + [-(7**0.5)])


def test_the_punished_tokens_are_unlikely_ones_where_the_policy_is_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logprobs = [[-1.0, -6.0, -1.0, -9.0], [-2.0]]
    rows = [Rollout("q", [1], [2] * len(p), p, 0, "stop", False) for p in logprobs]
    entropy = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.7, 0.0, 0.0, 0.0]])
    monkeypatch.setattr(dissent, "_entropies", lambda *_: entropy)
    # (−log π)(1 − h) is 1, 4, 1/3 and 0: the least likely token is where the policy is least sure.
    chosen = dissent.surprising(tiny.networks(), Batch.collate(rows, 0), tiny.settings())
    assert chosen.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def test_the_entropy_is_that_of_the_policy_before_each_token() -> None:
    networks = tiny.networks()
    batch = tiny.play(networks, labeled=False, seed=0)
    chances = tiny.probabilities(networks).repeat_interleave(16, 0)  # (B, V) of the first token
    expected = -(chances * chances.log()).sum(1)
    with torch.no_grad():
        entropy = dissent._entropies(networks, batch)
    assert torch.allclose(entropy[:, 0], expected, atol=1e-4)


def test_a_question_is_kept_if_its_pass_rate_moves_like_those_of_labeled_ones() -> None:
    memory: dict[str, Any] = {}
    courses = {"labeled": [[0, 1, 1, 1]], "unlabeled": [[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]}
    for visit in range(4):
        for kind, histories in courses.items():
            outcomes = [[1.0 if course[visit] else -1.0] * 2 for course in histories]
            batch = batch_of(outcomes, question=0 if kind == "labeled" else 10)
            remember(memory, kind, batch, (batch.outcome > 0).float())
    like, unlike = (int(batch_of([[1.0]], question=number).question) for number in (10, 11))
    assert correlated_questions(memory) == {like}
    assert memory["kept"] == [like]
    memory["labeled"] = {1: [1.0, 0.0, 0.0, 0.0]}
    assert correlated_questions(memory) == {like}  # it was kept, and is a reference, too
    memory["kept"] = []
    assert correlated_questions(memory) == {unlike}


# Two critics --------------------------------------------------------------------------------------


class Fixed:
    """A critic with the same value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def values(self, batch: Batch) -> torch.Tensor:
        return self.value * batch.mask


def test_the_reward_is_the_mean_less_the_disagreement_of_two_critics() -> None:
    batch = tiny.random_batch()
    values = TwoCritics(Fixed(0.6), Fixed(0.2), weight=0.5).values(batch)
    last = (torch.arange(len(batch)), batch.mask.sum(1).long() - 1)
    assert values[last].tolist() == pytest.approx([0.4 - 0.5 * 0.4] * len(batch))
    values[last] = 0.4
    assert torch.allclose(values, 0.4 * batch.mask)


def test_each_critic_has_half_of_the_responses_to_each_question() -> None:
    batch = batch_of([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert half(batch, 0).outcome.tolist() == [1, 3, 5, 7]
    assert half(batch, 1).outcome.tolist() == [2, 4, 6, 8]


def test_two_critics_begin_apart_and_both_learn(tmp_path: Path) -> None:
    lab = lab_of(study_data.spec(tmp_path, disagreement=1.0))
    warm_up(lab)
    first, second = (critic.value_head.weight for critic in lab.critics)
    assert first.any()
    assert second.any()
    assert not torch.equal(first, second)


# The iteration ------------------------------------------------------------------------------------


def test_without_a_change_a_variant_is_the_product_s_iteration(
    tmp_path: Path, proven_critic: None
) -> None:
    spec = study_data.spec(tmp_path)
    ours, product = (lab_of(spec) for _ in range(2))
    for lab in (ours, product):
        s = lab.settings
        batches: dict[str, Any] = {
            "labeled": [lab.labeled(s.labeled_per_step)],
            "held_out": lab.held_out_window(),
            "unlabeled": lab.batch(lab.sample_next("unlabeled", s.unlabeled_per_step)),
        }
        if lab is ours:
            variants.variant_step(lab, **batches)
        else:
            em_step(lab.networks, **batches, settings=s)
    a, b = (lab.networks.state_dict()["weights"] for lab in (ours, product))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("change", [{"pass_k": 2}, {"disagreement": 1.0}, {"flip_at": 1}])
def test_each_change_gives_another_policy(
    change: dict[str, Any], tmp_path: Path, proven_critic: None
) -> None:
    spec = study_data.spec(tmp_path, iterations=3, samples=1)
    plain = lines(run(spec, tmp_path / "plain"))
    changed = lines(run(replace(spec, **change), tmp_path / "changed"))
    assert changed[-1]["m_step/base_kl"] != plain[-1]["m_step/base_kl"]
    assert changed[0]["adapted"] == plain[0]["adapted"]


def test_the_reward_has_the_wrong_sign_from_the_flip_on(tmp_path: Path) -> None:
    lab = lab_of(study_data.spec(tmp_path, flip_at=2))
    signs = []
    for lab.counters["iteration"] in range(4):
        signs.append(lab.step_settings.reward_sign)
    assert signs == [1, 1, -1, -1]
    assert lab_of(study_data.spec(tmp_path)).step_settings.reward_sign == 1


@pytest.mark.parametrize("change", [{"disagreement": 0.5}, {"gate": True}, {"method": "trapo"}])
def test_a_resumed_run_is_the_uninterrupted_one(
    change: dict[str, Any], tmp_path: Path, proven_critic: None
) -> None:
    settings = study_data.SETTINGS | {"iterations_per_round": 2, "gate_samples": 2}
    spec = study_data.spec(tmp_path, settings=settings, **change)
    whole = lines(run(spec, tmp_path / "whole"))

    def stop(iteration: int) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "cut", stop)
    assert lines(run(spec, tmp_path / "cut")) == whole


# The gate -----------------------------------------------------------------------------------------


def gated(tmp_path: Path) -> Lab:
    settings = study_data.SETTINGS | {"iterations_per_round": 1, "gate_samples": 2}
    lab = lab_of(study_data.spec(tmp_path, settings=settings, gate=True))
    gating.remember_base(lab)
    lab.counters["iteration"] = 1
    return lab


def shift(lab: Lab) -> dict[str, torch.Tensor]:
    """Change the policy; return its weights."""
    weights = lab.networks.adapter_parameters(POLICY)
    with torch.no_grad():
        for parameter in weights.values():
            parameter.add_(0.1)
    return {name: parameter.detach().clone() for name, parameter in weights.items()}


def measured(lab: Lab) -> dict[str, torch.Tensor]:
    """Return the weights of the policy while it is measured."""
    with gating.serving(lab):
        weights = lab.networks.adapter_parameters(POLICY)
        return {name: parameter.detach().clone() for name, parameter in weights.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class Decided:
    """A decision of the gate."""

    reason = "as the test says"

    def __init__(self, promote: bool, is_worse: bool = False) -> None:
        self.promote = promote
        self.is_worse = is_worse


def test_a_refused_policy_is_not_measured_and_a_promoted_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = gated(tmp_path)
    base = measured(lab)
    first = shift(lab)
    assert equal(measured(lab), base)
    monkeypatch.setattr(gating, "decide", lambda *_, **__: Decided(promote=True))
    assert gating.after_iteration(lab)["promoted"]
    second = shift(lab)
    assert equal(measured(lab), first)
    monkeypatch.setattr(gating, "decide", lambda *_, **__: Decided(promote=False))
    lab.counters["iteration"] = 2
    assert not gating.after_iteration(lab)["promoted"]
    now = lab.networks.adapter_parameters(POLICY)
    assert equal(dict(now), second)  # training goes on from it
    monkeypatch.setattr(gating, "decide", lambda *_, **__: Decided(promote=False, is_worse=True))
    lab.counters["iteration"] = 3
    gating.after_iteration(lab)
    assert equal(dict(now), first)  # the policy starts again from what serves


def test_the_gate_itself_refuses_a_policy_that_is_never_right(tmp_path: Path) -> None:
    lab = gated(tmp_path)
    shift(lab)
    figures = gating.after_iteration(lab)
    assert figures["promoted"] is False
    assert figures["gate"]
    assert lab.memory["tests"] == lab.memory["refusals"] == 1
