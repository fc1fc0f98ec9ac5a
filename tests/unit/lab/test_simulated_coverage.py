"""Intervals over seeds contain the true difference in 93 to 97 % of simulated studies."""

from typing import Any

import numpy as np
import pytest

from tempo_lab.simulation import coverage
from tempo_lab.simulation.coverage import GAIN, Population, studies


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return coverage.rows(repetitions=2_000)


def test_the_table_has_both_difficulties_and_every_deviation(rows: list[dict[str, Any]]) -> None:
    cells = [(row["questions"], row["deviation"]) for row in rows]
    assert cells == [(q, d) for q in ("countdown-like", "LLM-like") for d in (0, 2, 4, 8)]


def test_an_interval_over_seeds_keeps_its_word(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if not 0.93 <= row["seeds"] <= 0.97] == []


@pytest.mark.parametrize("rule", ["pooled questions", "questions of one seed"])
def test_an_interval_over_questions_fails_as_soon_as_runs_differ(
    rule: str, rows: list[dict[str, Any]]
) -> None:
    by_deviation = {row["deviation"]: row[rule] for row in rows}
    assert 0.93 <= by_deviation[0] <= 0.97  # the figures are those of a rule that could pass
    assert by_deviation[2] < 0.7
    assert by_deviation[8] < 0.3


@pytest.mark.parametrize("parameters", coverage.DIFFICULTIES.values())
def test_the_true_difference_of_the_simulated_arms_is_the_gain(
    parameters: tuple[float, float],
) -> None:
    generator = np.random.default_rng(1)
    population = Population.of(*parameters, generator)
    differences = studies(population, 0.08, 2_000, generator).mean((1, 2))
    error = differences.std() / np.sqrt(len(differences))
    assert abs(differences.mean() - GAIN) < 4 * error
    assert error < 0.002
