"""The critic's fitness: when it refuses an M-step, and what looks like a hacked critic."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import play, random_batch, settings, started

from tempo_trainer.algorithm.fitness import measure, refusal_reason, suspicions, value_stats
from tempo_trainer.algorithm.reports import AdvantageSignal, Fitness

FIT = Fitness(auroc=0.9, brier=0.1, ece=0.1, explained_variance=0.5, advantage_cosine=0.9)


def signal(*, deviation: float = 0.1) -> AdvantageSignal:
    return AdvantageSignal(torch.zeros(1, 1), 0.0, 0.0, advantage_std=deviation)


def test_fitness_is_measured_on_the_value_before_the_last_token() -> None:
    nets, own = started()
    fitness = measure(nets.critic, play(nets, labeled=True, seed=50), own)
    assert fitness.auroc > 0.9
    assert fitness.brier < 0.2
    assert fitness.advantage_cosine > 0.5


def test_advantages_that_point_the_wrong_way_refuse_the_m_step() -> None:
    wrong = replace(FIT, advantage_cosine=-0.01)
    reason = refusal_reason(wrong, signal(), settings())
    assert "cosine with the true ones is -0.010 on held-out questions, below 0.000" in reason
    assert refusal_reason(replace(FIT, advantage_cosine=0.01), signal(), settings()) == ""
    # `em` does not compare tokens of one response.
    assert refusal_reason(wrong, signal(), settings(estimator="em")) == ""


@pytest.mark.parametrize(("deviation", "flat"), [(0.019, True), (math.nan, True), (0.021, False)])
def test_a_flat_critic_refuses_the_m_step(deviation: float, flat: bool) -> None:
    reason = refusal_reason(FIT, signal(deviation=deviation), settings())
    assert ("critic flat" in reason) is flat
    assert bool(reason) is flat


def test_values_are_described_on_unlabeled_rows_only() -> None:
    values = torch.tensor([[0.0, 0.5, 0.0], [0.1, 0.2, 1.5], [0.3, 0.0, 0.0], [-9.0, 0.0, 0.0]])
    batch = random_batch(rows=4, labeled=False)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    truncated = torch.tensor([False, True, False, True])
    labeled = torch.tensor([False] * 3 + [True])
    stats = value_stats(values, replace(batch, mask=mask, truncated=truncated, labeled=labeled))
    assert stats is not None
    assert stats.value_stopped == pytest.approx(0.4)
    assert stats.value_truncated == pytest.approx(1.5)
    assert stats.value_outside == stats.truncated_share == pytest.approx(1 / 3)
    assert stats.value_std == pytest.approx(0.5249, abs=1e-4)
    assert stats.length_correlation == pytest.approx(0.9333, abs=1e-4)
    every = torch.ones(4).bool()
    assert value_stats(values, replace(batch, mask=mask, labeled=every)) is None


SOUND = {
    "m_step/reward": 0.1,
    "e_step/accuracy": 0.5,
    "e_step/brier": 0.2,
    "m_step/length_correlation": 0.1,
    "m_step/value_stopped": 0.2,
    "m_step/value_truncated": -0.5,
}


@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({}, ""),
        (
            {"m_step/reward": 0.5},
            "unlabeled values rose from 0.10 to 0.50 and held-out accuracy did not",
        ),
        ({"m_step/reward": 0.5, "e_step/accuracy": 0.6}, ""),
        ({"e_step/brier": 0.24}, "the held-out Brier score rose from 0.200 to 0.240"),
        (
            {"m_step/length_correlation": -0.6},
            "the correlation of value and length went from +0.10 to -0.60",
        ),
        (
            {"m_step/value_truncated": 0.5},
            "truncated responses are worth 0.50, finished ones 0.20",
        ),
    ],
    ids=str,
)
def test_a_policy_that_pleases_the_critic_is_suspected(
    changed: dict[str, float], sign: str
) -> None:
    advice = ": read some responses before this version is kept"
    assert suspicions(SOUND, SOUND | changed) == (sign and sign + advice)


def test_several_suspicions_are_joined() -> None:
    last = SOUND | {"e_step/brier": 0.24, "m_step/value_truncated": 0.5}
    assert suspicions(SOUND, last).count("; ") == 1


def test_figures_that_are_missing_are_not_suspicious() -> None:
    assert suspicions({}, {}) == ""
