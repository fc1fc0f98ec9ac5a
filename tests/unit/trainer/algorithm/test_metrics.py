"""Figures about held-out questions agree with their definitions."""

import math
import re
from typing import Any

import numpy as np
import pytest
from vectors import GOLDEN

from tempo_trainer.algorithm import metrics


def signs(correct: Any) -> np.ndarray:
    return np.where(np.array(correct) > 0, 1.0, -1.0)


def test_critic_figures_agree_with_the_golden_vectors() -> None:
    case = GOLDEN["G10_critic_metrics"]
    values = np.array(case["V"])
    outcomes = signs(case["y"])
    assert metrics.auroc(values, outcomes) == pytest.approx(case["auroc"])
    assert metrics.brier(values, outcomes) == pytest.approx(case["brier"])
    assert metrics.ece(values, outcomes) == pytest.approx(case["ece10"])
    explained = metrics.explained_variance(values, outcomes)
    assert explained == pytest.approx(case["explained_var"])


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(5, size=40) / 2.0
    outcomes = signs(generator.integers(2, size=40))
    right = values[outcomes > 0]
    wrong = values[outcomes < 0]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    assert metrics.auroc(values, outcomes) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("values", [np.array([0.1, math.nan]), np.array([0.1, math.inf])])
def test_a_critic_that_is_not_finite_has_no_auroc(values: np.ndarray) -> None:
    assert math.isnan(metrics.auroc(values, np.array([1.0, -1.0])))


def test_outcomes_that_are_all_alike_have_no_auroc() -> None:
    assert math.isnan(metrics.auroc(np.array([0.1, 0.2]), np.array([1.0, 1.0])))


def test_the_reliability_curve_has_a_point_for_each_tenth_that_occurs() -> None:
    values = np.array([-1.2, -0.9, 0.1, 0.15, 0.1, 1.0])
    outcomes = signs([0, 1, 1, 0, 1, 1])
    points = np.array(metrics.reliability(values, outcomes))
    assert points[:, 2].tolist() == [2, 3, 1]
    assert points[:, 0] == pytest.approx([0.025, 0.5 + 0.35 / 6, 1.0])
    assert points[:, 1] == pytest.approx([0.5, 2 / 3, 1.0])
    assert metrics.reliability(np.array([math.nan]), np.ones(1)) == []
    assert math.isnan(metrics.ece(np.array([math.nan]), np.ones(1)))


def test_correlation_is_pearsons() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert metrics.correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert metrics.correlation(x, -2 * x + 1) == pytest.approx(-1)
    assert math.isnan(metrics.correlation(x, np.ones(20)))


@pytest.mark.parametrize(("name", "expected"), GOLDEN["G9_pass_at_k"].items())
def test_pass_at_k_is_unbiased(name: str, expected: float) -> None:
    n, c, k = (int(x) for x in re.findall(r"\d+", name))
    outcomes = signs([[1] * c + [0] * (n - c)])
    assert metrics.pass_at_k(outcomes, k)[0] == pytest.approx(expected)


def test_avg_and_pass_are_averages_over_questions() -> None:
    outcomes = signs([[1] * c + [0] * (16 - c) for c in (0, 1, 4, 16)])
    assert metrics.avg_at_n(outcomes).mean() == pytest.approx(0.328125)
    assert metrics.pass_at_k(outcomes, 8).mean() == pytest.approx(0.615384615)


def test_a_k_above_the_number_of_responses_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 9 with 8 responses"):
        metrics.pass_at_k(np.ones((2, 8)), 9)


def test_answer_entropy_counts_distinct_answers() -> None:
    case = GOLDEN["G11_votes"]
    # The golden case counts each empty answer as its own cluster; here there is one of them.
    assert metrics.answer_entropy(case["answers"]) == pytest.approx(case["entropy_nats"])
    assert metrics.answer_entropy(["7", "7"]) == 0.0
