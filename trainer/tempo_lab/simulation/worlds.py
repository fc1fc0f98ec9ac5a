"""Simulated questions and versions: how often each version answers each question right.

A question has a difficulty p, the share of right answers of the base. Another version's share is
logit⁻¹(logit p + shift + noise): the noise has a standard deviation `spread` over questions, and
the shift is such that the mean gain over the population of questions is exact. Held-out questions
are a sample of that population, so a version that is no better may be better on them by chance.

A greedy answer is the most common one. A question's strongest wrong answer takes a share of the
wrong answers that is the same for all versions; the greedy answer is right if the right answer is
more common.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy.special import expit, logit

from tempo_storage.adapters import BASE
from tempo_storage.decoding import Decoding
from tempo_trainer.algorithm.metrics import Array
from tempo_trainer.versions.answers import Answers

DIFFICULTIES = {"countdown": (1.1, 2.0), "llm": (0.5, 0.4)}
"""Parameters of the Beta distribution of p, by kind of question."""
POPULATION = 400_000
SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of questions, and how differently a version changes them."""

    name: str
    spread: float
    """Standard deviation over questions of the gain, in logits."""
    serving_gain: float = 0.0
    """Mean gain of the serving version over the base; 0: the base serves."""

    def difficulties(self, rng: np.random.Generator, count: int) -> Array:
        """Return p of `count` questions of the population."""
        p = rng.beta(*DIFFICULTIES[self.name], count)
        return np.clip(p, SMALLEST, 1 - SMALLEST)

    def served(self, rng: np.random.Generator, p: Array) -> Array:
        """Return the serving version's share of right answers to the same questions."""
        if not self.serving_gain:
            return p
        return self._changed(rng, p, _shift(Kind(self.name, self.spread), self.serving_gain))

    def candidate(self, rng: np.random.Generator, served: Array, gain: float) -> Array:
        """Return the share of a candidate whose mean gain over the serving version is `gain`."""
        return self._changed(rng, served, _shift(self, gain))

    def _changed(self, rng: np.random.Generator, p: Array, shift: float) -> Array:
        return np.asarray(expit(logit(p) + shift + rng.normal(0, self.spread, len(p))))


@cache
def _shift(kind: Kind, gain: float) -> float:
    """Return the shift in logits that changes the population's mean by `gain`, by bisection."""
    rng = np.random.default_rng(7)
    before = kind.served(rng, kind.difficulties(rng, POPULATION))
    noise = rng.normal(0, kind.spread, POPULATION)
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = expit(logit(before) + middle + noise).mean() - before.mean()
        low, high = (middle, high) if mean < gain else (low, middle)
    return low


@dataclass(slots=True)
class World:
    """Held-out questions, and the shares of right answers of the versions that answer them."""

    rng: np.random.Generator
    shares: dict[int, Array]
    """(Q,) by version."""
    greedy_of: dict[int, tuple[int, float]] = field(default_factory=dict)
    """For a version whose greedy answers are another's: that version, and the share of its right
    answers that are lost."""
    rivals: Array = field(init=False)
    """(Q,): the share of a question's wrong answers that are its strongest wrong answer."""

    def __post_init__(self) -> None:
        self.rivals = self.rng.beta(2, 2, len(self.shares[BASE]))

    def answer(
        self, version: int, examples: Sequence[object], n: int, decoding: Decoding
    ) -> Answers:
        """Draw a version's answers; the questions themselves are of no importance."""
        share = self.shares[version]
        if decoding.is_greedy:
            model, lost = self.greedy_of.get(version, (version, 0.0))
            p = self.shares[model]
            kept = self.rng.random(len(p)) >= lost
            is_right = ((p > (1 - p) * self.rivals) & kept)[:, None]
        else:
            is_right = self.rng.random((len(share), n)) < share[:, None]
        zeros = np.zeros_like(is_right, dtype=float)
        return Answers(2.0 * is_right - 1.0, [()] * len(share), zeros, zeros)
