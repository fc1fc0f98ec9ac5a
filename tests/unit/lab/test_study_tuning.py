"""The tuning's rule, and the accuracy of rewards."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tempo_lab.study import pseudo
from tempo_lab.study.arms import ARMS, TUNED, settings_of
from tempo_lab.study.lab import Responses, Spec
from tempo_lab.study.pseudo import reward_figures
from tempo_lab.study.questions import QuestionSet
from tempo_lab.study.summary import Run, _collapse
from tempo_lab.study.tuning import GRID, best, run_name

NAMES = list(GRID)


def row(name: str, users: float, lost: float, *, half: float = 0.0) -> dict[str, Any]:
    """Return the row of a run of `ttrl`; `half` is the accuracy at six tenths of the adapter."""

    def figures(accuracy: float, pass8: float) -> dict[str, list[float]]:
        return {"users": [accuracy], "avg": [0.1], "pass": [pass8]}

    lines = [
        {"iteration": 0, "unseen": figures(0.3, 0.9)},
        {
            "iteration": 200,
            "unseen": figures(users, 0.9 - lost),
            "scaled": {"0.6": {"unseen": figures(half, 0.9)}},
        },
    ]
    return {"run": {"name": run_name("ttrl", name), "seed": 20}, "lines": lines, "commit": "abc"}


def test_the_most_accurate_setting_that_keeps_pass_at_8_is_chosen() -> None:
    rows = [row(name, 0.4, 0.02) for name in NAMES]
    rows[1] = row(NAMES[1], 0.5, 0.03)
    rows[2] = row(NAMES[2], 0.9, 0.04)  # loses too much
    assert best(rows, "ttrl") == GRID[NAMES[1]]


def test_a_scaled_adapter_is_a_choice_of_every_setting() -> None:
    rows = [row(name, 0.4, 0.02) for name in NAMES]
    rows[3] = row(NAMES[3], 0.9, 0.2, half=0.6)
    assert best(rows, "ttrl") == GRID[NAMES[3]] | {"serving_scale": 0.6}


def test_where_nothing_keeps_pass_at_8_the_most_accurate_setting_is_chosen() -> None:
    rows = [row(name, 0.4 + i / 100, 0.5) for i, name in enumerate(NAMES)]
    for one in rows:
        del one["lines"][-1]["scaled"]
    assert best(rows, "ttrl") == GRID[NAMES[5]]


def test_the_seeds_of_the_tuning_are_averaged() -> None:
    rows = [row(name, 0.4, 0.0) for name in NAMES]
    rows += [row(NAMES[0], 0.9, 0.0), row(NAMES[1], 0.3, 0.0)]
    assert best(rows, "ttrl") == GRID[NAMES[0]]


def test_an_arm_whose_grid_is_not_complete_keeps_its_untuned_settings() -> None:
    rows = [row(name, 0.4, 0.0) for name in NAMES[1:]]
    assert best(rows, "ttrl") is None
    assert settings_of("ttrl", rows) == GRID[ARMS["ttrl"].untuned]
    rows.append(row(NAMES[0], 0.9, 0.0))
    assert settings_of("ttrl", rows) == GRID[NAMES[0]]


def test_the_control_has_the_settings_of_the_default() -> None:
    rows = [row(name, 0.4, 0.0) for name in NAMES]
    rows[2] = row(NAMES[2], 0.9, 0.0)
    for one in rows:
        one["run"]["name"] = one["run"]["name"].replace("ttrl", "tempo-default")
    assert settings_of("random", rows) == GRID[NAMES[2]]
    assert settings_of("tempo-default", rows) == GRID[NAMES[2]] | {"labeled_in_policy": True}
    assert "random" not in TUNED


# Reward accuracy ----------------------------------------------------------------------------------

ANSWERS = [["7", "7", "7", "5"], ["1", "2", "2", ""]]
OUTCOMES = [[-1.0, -1.0, -1.0, 1.0], [-1.0, 1.0, 1.0, -1.0]]


def lab(*, sign: int = 1) -> Any:
    responses = Responses([None, None], [], [])  # type: ignore[list-item]
    settings = SimpleNamespace(seed=0, group_size=4, tokens_per_microbatch=64, reward_sign=sign)
    return SimpleNamespace(
        settings=settings,
        step_settings=settings,
        iteration=0,
        held_out=QuestionSet((), {}),
        sample=lambda *_: responses,
        verifiers=SimpleNamespace(
            answers=lambda _: ANSWERS,
            outcomes=lambda *_: OUTCOMES,
            parses=lambda _: [[bool(answer) for answer in row] for row in ANSWERS],
        ),
        batch=lambda _: SimpleNamespace(mask=torch.ones(8, 1)),
        critic=SimpleNamespace(values=None),
    )


@pytest.mark.parametrize(
    ("method", "accuracy"), [("ttrl", 4 / 8), ("empo", 4 / 8), ("format", 4 / 8)]
)
def test_a_reward_is_accurate_where_it_agrees_with_the_verifier(
    method: str, accuracy: float
) -> None:
    figures = reward_figures(lab(), method)
    assert figures == {"majority_share": (3 / 4 + 2 / 4) / 2, "accuracy": accuracy}


@pytest.mark.parametrize(("sign", "accuracy"), [(1, 6 / 8), (-1, 2 / 8)])
def test_a_critic_says_right_above_zero_and_the_opposite_with_a_flipped_reward(
    sign: int, accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = [0.5, -1.0, -1.0, 1.0, -0.1, -0.1, 0.1, -1.0]
    monkeypatch.setattr(pseudo, "forward_no_grad", lambda *_: torch.tensor(last)[:, None])
    assert reward_figures(lab(sign=sign), "tempo")["accuracy"] == accuracy


def test_a_method_that_labels_reward_has_no_reward_accuracy() -> None:
    assert reward_figures(lab(), "supervised") == {"majority_share": 0.625}


def test_a_name_of_the_tuning_is_a_name_of_a_run() -> None:
    spec = replace(Spec("ttrl", 20, "", "", ""), name=run_name("ttrl", NAMES[0]))
    assert spec.stem == "ttrl-3e-4-KL-0.0-20"


def test_a_run_collapses_at_the_first_measurement_below_one_percent() -> None:
    run = object.__new__(Run)
    shares = {0: 0.5, 20: 0.02, 40: 0.009, 60: 0.0}
    run.lines = [{"iteration": i, "reward": {"accuracy": share}} for i, share in shares.items()]
    assert run.collapse_step == 40
    assert _collapse({0: run}) == "40 (1/1)"
    run.lines = run.lines[:2]
    assert run.collapse_step is None
    assert _collapse({0: run, 1: run}) == "none of 2"
    run.lines = [{"iteration": 0, "reward": {"majority_share": 0.5}}]
    assert _collapse({0: run}) is None
