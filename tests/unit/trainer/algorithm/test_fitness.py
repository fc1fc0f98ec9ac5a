"""The critic's fitness: when it refuses an M-step, and what looks like a hacked critic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DRAWS, held_out, random_batch, settings, started

from tempo_trainer.algorithm.fitness import (
    fitness_of,
    measure,
    refusal_reason,
    suspicions,
    unfit_reason,
    value_stats,
)
from tempo_trainer.algorithm.reports import AdvantageSignal, Fitness
from tempo_trainer.algorithm.within import Rows

FIT = Fitness(
    **{"auroc": 0.9, "brier": 0.1, "ece": 0.1, "explained_variance": 0.5, "accuracy": 0.5},
    **{"within_auroc": 0.7, "within_auroc_low": 0.6, "within_auroc_beyond_length": 0.7},
    **{"within_auroc_beyond_length_low": 0.6, "draws": 64, "mixed_draws": 40},
    **{"mixed_questions": 20, "truncated_share": 0.1},
)


def signal(*, deviation: float = 0.1) -> AdvantageSignal:
    return AdvantageSignal(torch.zeros(1, 1), 0.0, 0.0, advantage_std=deviation)


def test_fitness_is_measured_on_the_value_before_the_last_token() -> None:
    nets, own = started()
    fitness = measure(nets.critic, held_out(nets, seed=50), own)
    assert fitness.auroc > 0.9
    assert fitness.brier < 0.2
    assert fitness.within_auroc_low > 0.9
    assert (fitness.draws, fitness.mixed_questions) == (4 * DRAWS, 4)
    assert 24 <= fitness.mixed_draws <= fitness.draws
    assert refusal_reason(fitness, signal(), own) == ""


def test_a_fit_critic_is_not_refused() -> None:
    assert unfit_reason(FIT) == ""
    assert refusal_reason(FIT, signal(), settings()) == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"brier": math.nan, "within_auroc_low": math.nan},
            "critic's fitness unknown: its values are not finite; cancel the job, or restart the"
            " worker with a lower TEMPO_CRITIC_LEARNING_RATE",
        ),
        (
            {"mixed_draws": 23},
            "critic's fitness unknown: 23 of 64 draws of held-out questions were answered both"
            " right and wrong, and 24 are needed; upload more labeled questions, or raise"
            " TEMPO_HELD_OUT_PER_STEP",
        ),
        (
            {"mixed_draws": 3, "accuracy": 0.97},
            "97% of the responses are right: upload harder questions",
        ),
        (
            {"mixed_draws": 3, "accuracy": 0.03},
            "3% of the responses are right: upload easier questions",
        ),
        (
            {"mixed_draws": 3, "accuracy": 0.03, "truncated_share": 0.8},
            "3% of the responses are right and 80% are cut at the length limit: raise"
            " TEMPO_MAX_RESPONSE_TOKENS",
        ),
        (
            {"mixed_questions": 1, "within_auroc_low": math.nan},
            "there are 40 draws of 1 held-out questions; upload more labeled questions",
        ),
        (
            {"within_auroc": 0.52, "within_auroc_low": 0.48},
            "critic unfit: on 40 draws of 20 held-out questions its AUROC within a question is"
            " 0.520, and its lower 95 % bound, 0.480, is not above 0.5; upload more labeled"
            " questions, or lower TEMPO_POLICY_LEARNING_RATE",
        ),
        (
            {"within_auroc_beyond_length": 0.51, "within_auroc_beyond_length_low": 0.47},
            "critic unfit: it may know no more than the length of right responses; without what"
            " length and truncation explain, its AUROC within a question is 0.510 on 40 draws of 20"
            " held-out questions, and the lower 95 % bound, 0.470, is not above 0.5",
        ),
        (
            {"within_auroc_low": 0.5, "truncated_share": 0.6},
            "60% of the responses are cut: raise TEMPO_MAX_RESPONSE_TOKENS",
        ),
    ],
    ids=str,
)
def test_a_critic_that_is_not_proven_refuses_the_m_step_with_figures_and_remedy(
    changed: dict[str, float], reason: str
) -> None:
    assert reason in refusal_reason(replace(FIT, **changed), signal(), settings())


@pytest.mark.parametrize("bound", ["within_auroc_low", "within_auroc_beyond_length_low"])
@pytest.mark.parametrize("value", [math.nan, 0.5, 0.2])
def test_both_bounds_must_be_above_chance(bound: str, value: float) -> None:
    assert unfit_reason(replace(FIT, **{bound: value})).startswith("critic unfit: ")


def test_reliability_is_split_by_length_and_by_truncation() -> None:
    length = np.array([1.0, 2, 3, 4, 5, 6])
    rows = Rows(
        values=np.array([-1.0, -1, 0, 0, 1, 1]),
        outcomes=np.array([-1.0, 1, -1, 1, 1, 1]),
        question=np.arange(6),
        draw=np.arange(6),
        length=length,
        truncated=length > 5,
    )
    fitness = fitness_of(rows)
    assert fitness.reliability_by_length == {
        "short": [(0.0, 0.5, 2)],
        "middle": [(0.5, 0.5, 2)],
        "long": [(1.0, 1.0, 2)],
    }
    assert fitness.reliability_by_truncation["truncated"] == [(1.0, 1.0, 1)]
    assert sum(n for _, _, n in fitness.reliability_by_truncation["finished"]) == 5
    alike = fitness_of(replace(rows, length=np.ones(6), truncated=np.zeros(6, dtype=bool)))
    assert sum(n for curve in alike.reliability_by_length.values() for _, _, n in curve) == 6
    assert set(alike.reliability_by_truncation) == {"finished"}


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
    advice = ": ask this version some questions before you rely on it"
    assert suspicions(SOUND, SOUND | changed) == (sign and sign + advice)


def test_several_suspicions_are_joined() -> None:
    last = SOUND | {"e_step/brier": 0.24, "m_step/value_truncated": 0.5}
    assert suspicions(SOUND, last).count("; ") == 1


def test_figures_that_are_missing_are_not_suspicious() -> None:
    assert suspicions({}, {}) == ""
