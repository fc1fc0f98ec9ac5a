"""Simulate the sentinel: how often does it roll back a version, by what the version is worth?

The product's own comparison decides each check, on a random half of the held-out questions and with
fresh answers. A version is rolled back after three checks in a row that found it below the base.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tempo_lab.simulation.worlds import DIFFICULTIES, Kind, World
from tempo_storage.adapters import BASE
from tempo_storage.decoding import GREEDY, PLAIN
from tempo_trainer.algorithm.metrics import Array
from tempo_trainer.jobs.sentinel import compared
from tempo_trainer.worker_settings import WorkerSettings

SERVING = 1
SPREADS = (0.6, 1.0)
QUESTIONS = (32, 64, 256)
RESPONSES = 16
CASES = {
    "equals the base, 100 checks": (None, 100),
    "no better over all questions, 100 checks": (0.0, 100),
    "5 points below, 10 checks": (-0.05, 10),
    "10 points below, 10 checks": (-0.10, 10),
}
"""The version's mean gain over the base (None: it is the base) and the number of checks."""
GREEDY_CASES = {
    "greedy users, no better over all questions": 0.0,
    "greedy users, 10 points below": -0.10,
}
"""The gain as users would see it at temperature 1; greedy answers follow from the same shares."""


def is_rolled_back(
    kind: Kind, questions: int, gain: float | None, checks: int, rng: np.random.Generator
) -> bool:
    """Make checks of a version; tell whether it was rolled back."""
    base = kind.difficulties(rng, questions)
    bad_checks = WorkerSettings.model_fields["sentinel_checks"].default
    served = base if gain is None else kind.candidate(rng, base, gain)
    in_a_row = 0
    for _ in range(checks):
        in_a_row = in_a_row + 1 if is_below(base, served, rng) else 0
        if in_a_row >= bad_checks:
            return True
    return False


def is_rolled_back_greedily(
    kind: Kind, questions: int, gain: float, rng: np.random.Generator
) -> bool:
    """Tell whether a version is rolled back where users sample greedily.

    Each check asks all questions and gets the same answers, so the first check decides.
    """
    base = kind.difficulties(rng, questions)
    world = World(rng, {BASE: base, SERVING: kind.candidate(rng, base, gain)})
    answers = [world.answer(version, (), 1, GREEDY) for version in (BASE, SERVING)]
    return bool(compared(*answers)["below"])


def is_below(base: Array, served: Array, rng: np.random.Generator) -> bool:
    """Make a check of a random half; the arguments are shares of right answers by question."""
    half = rng.permutation(len(base))[: max(1, len(base) // 2)]
    world = World(rng, {BASE: base[half], SERVING: served[half]})
    answers = [world.answer(version, (), RESPONSES, PLAIN) for version in (BASE, SERVING)]
    return bool(compared(*answers)["below"])


def rows(*, repetitions: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of questions: the share of versions that were rolled back."""
    for name, spread, questions in product(DIFFICULTIES, SPREADS, QUESTIONS):
        kind = Kind(name, spread)
        row: dict[str, Any] = {"questions": name, "spread": spread, "held out": questions}
        for case, (gain, checks) in CASES.items():
            rng = np.random.default_rng([questions, round(10 * spread), checks])
            ends = [is_rolled_back(kind, questions, gain, checks, rng) for _ in range(repetitions)]
            row[case] = round(float(np.mean(ends)), 4)
        for case, drop in GREEDY_CASES.items():
            rng = np.random.default_rng([questions, round(10 * spread)])
            below = [
                is_rolled_back_greedily(kind, questions, drop, rng) for _ in range(repetitions)
            ]
            row[case] = round(float(np.mean(below)), 4)
        yield row | {"repetitions": repetitions}
