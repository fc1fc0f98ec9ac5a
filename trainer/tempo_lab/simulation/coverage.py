"""How often a study's 95 % interval contains the true difference between two arms.

A run has an accuracy of its own: training twice gives two policies, even on the same questions. So
a simulated run deviates from its arm's accuracy by a normal number of points, and all questions of
the run share that deviation. The true difference is that of the arms, over runs and questions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tempo_trainer.algorithm.intervals import t_interval

SEEDS = 5
QUESTIONS = 128
RESPONSES = 16
GAIN = 0.05
DEVIATIONS = (0.0, 0.02, 0.04, 0.08)
"""Standard deviations of a run's accuracy around its arm's."""
DIFFICULTIES = {"countdown-like": (1.1, 2.0), "LLM-like": (0.5, 0.4)}
"""Parameters of the beta distribution of a question's share of right responses."""
REPETITIONS = 4_000
CHUNK = 200  # studies at once, to bound the memory
TAIL = 0.025

Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Population:
    """Questions of a difficulty, whose accuracy moves by a shift of all logits."""

    alpha: float
    beta: float
    shifts: Array
    means: Array
    """The mean accuracy at each of `shifts`."""

    @classmethod
    def of(cls, alpha: float, beta: float, generator: np.random.Generator) -> "Population":
        """Tabulate the mean accuracy over a large draw of questions."""
        logits = _logits(generator.beta(alpha, beta, 20_000))
        shifts = np.linspace(-8, 8, 321)
        return cls(alpha, beta, shifts, np.array([expit(logits + s).mean() for s in shifts]))

    def shares(self, questions: Array, points: Array) -> Array:
        """Return the accuracy on each question after the population's mean moved by `points`.

        `questions` is (..., Q) and `points` is (...). The mean moves by exactly `points`, so the
        true difference of two arms is known.
        """
        mean = np.interp(0.0, self.shifts, self.means)
        shift = np.interp(mean + points, self.means, self.shifts)  # (...)
        return np.asarray(expit(_logits(questions) + shift[..., None]))


def by_seed(differences: Array) -> Array:
    """The units of a study's tables: one mean for each seed; `differences` is (seeds, Q)."""
    return np.asarray(differences.mean(1))


def by_pooled_question(differences: Array) -> Array:
    """The units of earlier tables: the questions of all seeds."""
    return differences.ravel()


def by_question_of_one_seed(differences: Array) -> Array:
    """The units of a study with one seed."""
    return np.asarray(differences[0])


RULES: dict[str, Callable[[Array], Array]] = {
    "seeds": by_seed,
    "pooled questions": by_pooled_question,
    "questions of one seed": by_question_of_one_seed,
}


def rows(repetitions: int = REPETITIONS, seed: int = 0) -> list[dict[str, Any]]:
    """Return the coverage of each rule's 95 % interval, by difficulty and deviation in points."""
    generator = np.random.default_rng(seed)
    table = []
    for name, parameters in DIFFICULTIES.items():
        population = Population.of(*parameters, generator)
        for deviation in DEVIATIONS:
            shares = coverage(population, deviation, repetitions, generator)
            table.append({"questions": name, "deviation": 100 * deviation} | shares)
    return table


def coverage(
    population: Population, deviation: float, repetitions: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return for each rule the share of studies whose interval contains the true difference."""
    hits = dict.fromkeys(RULES, 0)
    for start in range(0, repetitions, CHUNK):
        count = min(CHUNK, repetitions - start)
        for differences in studies(population, deviation, count, generator):
            for rule, units in RULES.items():
                interval = t_interval(units(differences), tail=TAIL)
                hits[rule] += int(interval.low <= GAIN <= interval.high)
    return {rule: hit / repetitions for rule, hit in hits.items()}


def studies(
    population: Population, deviation: float, count: int, generator: np.random.Generator
) -> Array:
    """Return the differences of two arms in `count` studies, as (studies, seeds, questions).

    Each seed draws its own questions, and both arms answer them.
    """
    runs = (count, SEEDS)
    questions = generator.beta(population.alpha, population.beta, (*runs, QUESTIONS))
    accuracies = []
    for gain in (0.0, GAIN):
        points = gain + deviation * generator.standard_normal(runs)
        shares = population.shares(questions, points)
        accuracies.append(generator.binomial(RESPONSES, shares) / RESPONSES)
    return np.asarray(accuracies[1] - accuracies[0])


def _logits(shares: Array) -> Array:
    # A beta draw may round to 0 or 1; such a question never changes, as at ±20.
    return np.asarray(logit(np.clip(shares, 2e-9, 1 - 2e-9)))
