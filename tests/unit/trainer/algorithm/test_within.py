"""A critic must order the responses to one question, and not by their length alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tempo_trainer.algorithm import metrics, within
from tempo_trainer.algorithm.within import MIN_MIXED_DRAWS, Rows, discrimination

RESPONSES = 8


def responses(*, draws: int = 32, seed: int = 0, questions: int | None = None) -> Rows:
    """Return draws with four right and four wrong responses; right ones are longer on average."""
    generator = np.random.default_rng(seed)
    draw = np.repeat(np.arange(draws), RESPONSES)
    outcomes = np.tile([1.0, -1.0], draws * RESPONSES // 2)
    length = np.exp(5 + 0.3 * outcomes + 0.5 * generator.normal(size=len(draw))).round()
    return Rows(
        values=generator.normal(size=len(draw)),
        outcomes=outcomes,
        question=draw % (questions or draws) + 1000,
        draw=draw,
        length=length,
        truncated=length >= np.quantile(length, 0.95),
    )


def with_values(values: Any, rows: Rows | None = None) -> Rows:
    return replace(rows or responses(), values=np.asarray(values, dtype=float))


def by_hand(rows: Rows) -> list[float]:
    """Return the AUROC of each draw from its pairs."""
    figures = []
    for draw in np.unique(rows.draw):
        at = rows.draw == draw
        figures.append(metrics.auroc(rows.values[at], rows.outcomes[at]))
    return figures


def test_the_auroc_within_questions_does_not_depend_on_their_difficulty() -> None:
    # Easy questions have high values, and within each one the order is wrong.
    values = np.array([0.8, 0.9, 0.7, -0.9, -0.8])
    outcomes = np.array([1.0, -1, 1, 1, -1])
    draw = np.array([0, 0, 0, 1, 1])
    assert within.aurocs(values, outcomes, draw).tolist() == [0.0, 0.0]
    assert within.aurocs(-values, outcomes, draw).tolist() == [1.0, 1.0]


def test_the_auroc_of_each_draw_is_that_of_its_pairs() -> None:
    generator = np.random.default_rng(1)
    rows = with_values(generator.integers(4, size=32 * RESPONSES))  # with many ties
    order = generator.permutation(len(rows.draw))  # the rows of a draw need not stand together
    figures = within.aurocs(rows.values[order], rows.outcomes[order], rows.draw[order])
    assert figures == pytest.approx(by_hand(rows))


def test_ranks_within_a_draw_are_means_of_equal_values() -> None:
    values = np.array([3.0, 1.0, 1.0, 7.0, 1.0, 0.0])
    draw = np.array([0, 0, 0, 1, 1, 1])
    assert within.ranks_within(values, draw).tolist() == [3, 1.5, 1.5, 3, 2, 1]


def test_the_bound_is_students_over_the_means_of_questions() -> None:
    rows = responses(draws=30, questions=10)
    means = np.array(by_hand(rows)).reshape(3, 10).mean(0)  # draws of one question average first
    expected = means.mean() - stats.t.ppf(0.95, 9) * means.std(ddof=1) / math.sqrt(10)
    auroc = discrimination(rows).auroc
    assert (auroc.mean, auroc.low) == (pytest.approx(means.mean()), pytest.approx(expected))
    assert discrimination(rows).mixed_questions == 10


def test_draws_that_are_all_right_or_all_wrong_measure_nothing() -> None:
    rows = responses(draws=40)
    outcomes = rows.outcomes.copy()
    outcomes[rows.draw >= 30] = 1.0
    outcomes[rows.draw >= 35] = -1.0
    some = discrimination(replace(rows, outcomes=outcomes))
    assert (some.mixed_draws, some.mixed_questions) == (30, 30)
    first = rows.select(rows.draw < 30)
    assert some.auroc == discrimination(first).auroc


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_prove_nothing(value: float) -> None:
    rows = responses()
    values = rows.outcomes.copy()
    values[3] = value
    measured = discrimination(with_values(values, rows))
    assert math.isnan(measured.auroc.mean)
    assert not measured.proven


@pytest.mark.parametrize("outcome", [1.0, -1.0])
def test_outcomes_that_are_all_alike_prove_nothing(outcome: float) -> None:
    rows = responses()
    measured = discrimination(replace(rows, outcomes=np.full(len(rows.outcomes), outcome)))
    assert measured.mixed_draws == 0
    assert not measured.proven


def test_one_question_proves_nothing_however_often_it_is_drawn() -> None:
    rows = responses(questions=1)
    measured = discrimination(with_values(rows.outcomes, rows))
    assert measured.auroc.mean == 1.0
    assert not measured.proven


def test_a_critic_that_gives_every_response_the_same_value_proves_nothing() -> None:
    measured = discrimination(with_values(np.zeros(32 * RESPONSES)))
    assert measured.auroc.mean == measured.beyond_length.mean == 0.5
    assert not measured.proven


@pytest.mark.parametrize(("draws", "proven"), [(MIN_MIXED_DRAWS - 1, False), (24, True)])
def test_a_perfect_critic_is_proven_from_24_mixed_draws_on(draws: int, proven: bool) -> None:
    rows = responses(draws=draws)
    noise = 0.1 * np.random.default_rng(2).normal(size=len(rows.outcomes))
    measured = discrimination(with_values(rows.outcomes + noise, rows))
    assert measured.auroc.low > 0.9
    assert measured.beyond_length.low > 0.8
    assert measured.proven is proven


@pytest.mark.parametrize(
    "liking",
    [lambda length: length, np.log, lambda length: length**3, lambda length: -1 / length],
    ids=["linear", "logarithm", "cube", "reciprocal"],
)
def test_a_critic_of_length_alone_knows_nothing_beyond_length(liking: Any) -> None:
    rows = responses()
    measured = discrimination(with_values(liking(rows.length), rows))
    assert measured.auroc.low > 0.5  # it does order the responses
    assert measured.beyond_length.mean == pytest.approx(0.5, abs=0.01)
    assert not measured.proven


def test_a_critic_of_truncation_alone_knows_nothing_beyond_length() -> None:
    rows = responses()
    wrong = rows.outcomes < 0
    rows = replace(rows, truncated=wrong & (rows.length > 120))
    measured = discrimination(with_values(np.where(rows.truncated, -1.0, 1.0), rows))
    assert measured.auroc.low > 0.5
    assert measured.beyond_length.mean == pytest.approx(0.5, abs=0.01)
    assert not measured.proven


def test_what_a_critic_knows_besides_the_length_remains() -> None:
    rows = responses(draws=64)
    noise = np.random.default_rng(3).normal(size=len(rows.outcomes))
    liking = np.log(rows.length) + 0.5 * rows.outcomes + noise
    assert discrimination(with_values(liking, rows)).proven


def test_values_may_be_shifted_and_scaled_in_each_draw() -> None:
    rows = responses()
    values = rows.values + 0.5 * rows.outcomes
    moved = with_values(np.exp(values / 4) + 100.0 * rows.draw, rows)
    assert discrimination(moved).auroc == discrimination(with_values(values, rows)).auroc
    beyond = discrimination(moved).beyond_length
    assert beyond == discrimination(with_values(values, rows)).beyond_length


def test_mixed_draws_are_counted() -> None:
    assert within.count_mixed([0, 0, 1, 1, 2], [1.0, -1.0, 1.0, 1.0, -1.0]) == 1
    assert within.count_mixed([], []) == 0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([30, 24], [24]), ([9, 20, 10], [20, 10]), ([5, 5, 5], [5, 5, 5]), ([], [])],
    ids=str,
)
def test_older_parts_are_pooled_only_until_24_draws_are_mixed(
    counts: list[int], expected: list[int]
) -> None:
    assert list(within.newest(counts, lambda count: count)) == expected
