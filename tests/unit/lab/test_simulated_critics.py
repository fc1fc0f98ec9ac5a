"""The fitness check refuses useless critics and passes good ones in simulated worlds."""

from typing import Any

import numpy as np
import pytest

from tempo_lab.simulation import critics

USELESS = ("difficulty alone", "length alone, rising", "length alone, best in the middle")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return critics.rows(repetitions=150, mixed_draws=[32])


def figures(rows: list[dict[str, Any]], critic: str, figure: str = "refused") -> list[float]:
    return [row[figure] for row in rows if row["critic"] == critic]


@pytest.mark.parametrize("critic", USELESS)
def test_a_critic_of_difficulty_or_length_alone_is_refused(
    rows: list[dict[str, Any]], critic: str
) -> None:
    assert len(figures(rows, critic)) == 4
    assert min(figures(rows, critic)) >= 0.9


def test_critics_of_length_alone_order_the_responses_of_an_unlike_world_well(
    rows: list[dict[str, Any]],
) -> None:
    unlike = [row for row in rows if row["lengths"] == "unlike"]
    for critic in USELESS[1:]:
        assert min(figures(unlike, critic, "within AUROC")) > 0.6
        assert figures(unlike, critic, "beyond length") == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize(("critic", "share"), [("within .65", 0.2), ("within .75", 0.02)])
def test_a_critic_that_knows_right_from_wrong_passes(
    rows: list[dict[str, Any]], critic: str, share: float
) -> None:
    assert max(figures(rows, critic)) <= share


@pytest.mark.parametrize("auroc", [0.55, 0.65, 0.75])
def test_a_simulated_critic_has_the_auroc_of_its_name(
    rows: list[dict[str, Any]], auroc: float
) -> None:
    measured = figures(rows, f"within {auroc:.2f}".replace("0.", "."), "within AUROC")
    assert np.mean(measured) == pytest.approx(auroc, abs=0.01)
