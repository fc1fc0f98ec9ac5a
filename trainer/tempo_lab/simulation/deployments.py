"""Simulate deployments: rounds, tests that wait, promotions, restarts, and the sentinel.

In each round the policy changes: its mean accuracy moves by `drift`, and its answers to each
question move at random. After ten rounds the random moves have the standard deviation `spread`. The
gate tests the policy when its wait is over. After each test the sentinel checks the version that
serves ten times; a version that is rolled back ends the deployment, as it pauses training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from scipy.special import expit, logit

from tempo_lab.simulation.promotions import CANDIDATE, RESPONSES
from tempo_lab.simulation.rollbacks import is_below
from tempo_lab.simulation.worlds import Kind, World
from tempo_storage.adapters import BASE
from tempo_storage.decoding import PLAIN
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.algorithm.metrics import Array
from tempo_trainer.versions import gate
from tempo_trainer.versions.answers import AnswerBook, Comparison
from tempo_trainer.worker_settings import WorkerSettings

ROUNDS = 60
CHECKS = 10
UNSEEN = 2_000  # questions that nobody asks; they tell the true gain
DRIFTS = (-0.01, 0.0, 0.005, 0.01, 0.02)
LARGEST_GAIN = 0.30
QUESTIONS = (32, 64, 256)


@dataclass(slots=True)
class Deployment:
    """The state of one simulated deployment."""

    kind: Kind
    questions: int
    drift: float
    rng: np.random.Generator
    serving: int = BASE
    refusals: int = 0
    waited: int = 0
    tests: int = 0
    promoted_at: list[int] = field(default_factory=list)
    """The rounds of the promotions."""
    useless: int = 0
    """Promotions of a version that is no better on unseen questions than what it replaced."""
    is_rolled_back: bool = False
    _logits: dict[int, Array] = field(init=False)
    _policy: Array = field(init=False)

    def __post_init__(self) -> None:
        base = logit(self.kind.difficulties(self.rng, self.questions + UNSEEN))
        self._logits = {BASE: base}
        self._policy = base

    def run(self) -> "Deployment":
        """Make ROUNDS rounds, or fewer if the sentinel rolls a version back."""
        examples = [LabeledExample(content_hash=str(i)) for i in range(self.questions)]
        world = World(self.rng, {BASE: self._share(BASE)})
        book = AnswerBook(world.answer)
        for number in range(1, ROUNDS + 1):
            self._train()
            self.waited += 1
            waits = self.waited < gate.wait_rounds(self.refusals)
            if self.tests >= gate.MAX_TESTS or waits:
                continue
            self._logits[CANDIDATE + number] = self._policy
            world.shares = {version: self._share(version) for version in self._logits}
            book.open(examples, (BASE, self.serving), PLAIN)
            comparison = Comparison(book, examples, self.serving, CANDIDATE + number)
            self._decide(comparison, number)
            book.forget(CANDIDATE + number)
            if self.serving != BASE and self._check():
                self.is_rolled_back = True
                break
        return self

    def gain(self, version: int) -> float:
        """Return a version's mean gain over the base on unseen questions."""
        unseen = slice(self.questions, None)
        shares = [expit(self._logits[one][unseen]).mean() for one in (version, BASE)]
        return float(shares[0] - shares[1])

    def _share(self, version: int) -> Array:
        return np.asarray(expit(self._logits[version][: self.questions]))

    def _train(self) -> None:
        """Move the policy by a round: at random, and by `drift` until the largest gain."""
        noise = self.rng.normal(0, self.kind.spread / np.sqrt(10), len(self._policy))
        moved = self._policy + noise
        mean = expit(self._policy).mean()
        most = expit(self._logits[BASE]).mean() + LARGEST_GAIN
        target = min(mean + self.drift, max(mean, most))
        low, high = -3.0, 3.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if expit(moved + middle).mean() < target else (low, middle)
        self._policy = moved + low

    def _decide(self, comparison: Comparison, number: int) -> None:
        facts = gate.Facts(PLAIN, [None] * self.questions)
        decision = gate.decide(comparison, facts, k=RESPONSES)
        self.tests += 1
        self.waited = 0
        if decision.promote:
            self.useless += self.gain(comparison.candidate) <= self.gain(self.serving)
            self.serving = comparison.candidate
            self.refusals = 0
            self.promoted_at.append(number)
            return
        self.refusals += 1
        if decision.is_worse or self.refusals % gate.RESTART_TESTS == 0:
            self._policy = self._logits[self.serving]
        del self._logits[comparison.candidate]

    def _check(self) -> bool:
        """Make the sentinel's checks of the serving version; tell whether it is rolled back."""
        in_a_row = 0
        for _ in range(CHECKS):
            shares = (self._share(BASE), self._share(self.serving))
            in_a_row = in_a_row + 1 if is_below(*shares, self.rng) else 0
            if in_a_row >= WorkerSettings.model_fields["sentinel_checks"].default:
                return True
        return False


def rows(*, repetitions: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each drift and number of held-out questions."""
    for questions, drift in product(QUESTIONS, DRIFTS):
        ends = [
            Deployment(
                Kind("countdown", 0.6), questions, drift, np.random.default_rng([seed, questions])
            ).run()
            for seed in range(repetitions)
        ]
        first = [end.promoted_at[0] for end in ends if end.promoted_at]
        yield {
            "held out": questions,
            "points a round": round(100 * drift, 1),
            "promoted": len(first) / repetitions,
            "median round of the first promotion": float(np.median(first)) if first else None,
            "promotions": float(np.mean([len(end.promoted_at) for end in ends])),
            "with a promotion of no worth": float(np.mean([end.useless > 0 for end in ends])),
            "rolled back": float(np.mean([end.is_rolled_back for end in ends])),
            "tests": float(np.mean([end.tests for end in ends])),
            "gain of what serves": round(float(np.mean([e.gain(e.serving) for e in ends])), 4),
            "repetitions": repetitions,
        }
