"""Simulate the gate: how often does it promote a candidate, by the gain that the candidate has?

A life is a set of held-out questions with up to 50 tests of candidates that are no better. The
product's own code decides: `gate.decide` with its looks and vetoes, on answers that an `AnswerBook`
keeps as the worker's does. The life ends at the first promotion. At the tests of STAGES a better
candidate is tested beside the useless one, which shows whether the gate's power lasts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tempo_lab.simulation.worlds import DIFFICULTIES, Kind, World
from tempo_storage.adapters import BASE
from tempo_storage.decoding import PLAIN
from tempo_storage.ledger.models import LabeledExample
from tempo_trainer.versions import gate
from tempo_trainer.versions.answers import AnswerBook, Comparison

SERVING = 1
CANDIDATE = 2
SPREADS = (0.6, 1.0)
SERVING_GAINS = (0.0, 0.10)
QUESTIONS = (32, 64, 256)
RESPONSES = 16
STAGES = (1, 5, 20, 50)
WORSE = -0.02
GAINS = (0.05, 0.10)
GREEDY_LOSS = 0.25


Count = Callable[[str, bool], None]
"""Counts a test under a name: whether it promoted its candidate."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of questions, and how many of them are held out."""

    kind: Kind
    questions: int

    def seed(self, life: int) -> np.random.Generator:
        """Return the random numbers of a life; a life is the same in each simulation."""
        parts = [life, self.questions, round(10 * self.kind.spread)]
        parts += [round(100 * self.kind.serving_gain), sorted(DIFFICULTIES).index(self.kind.name)]
        return np.random.default_rng(parts)


def settings() -> Iterator[Setting]:
    """Yield all settings of the table."""
    for name, spread, gain, questions in product(DIFFICULTIES, SPREADS, SERVING_GAINS, QUESTIONS):
        yield Setting(Kind(name, spread, gain), questions)


class Life:
    """One set of held-out questions, and the gate's tests on it."""

    def __init__(self, setting: Setting, number: int) -> None:
        self.kind = setting.kind
        self.rng = setting.seed(number)
        base = self.kind.difficulties(self.rng, setting.questions)
        self.serving = SERVING if self.kind.serving_gain else BASE
        served = self.kind.served(self.rng, base)
        self.world = World(self.rng, {BASE: base, self.serving: served})
        self.examples = [LabeledExample(content_hash=str(i)) for i in range(setting.questions)]
        self.book = AnswerBook(self.world.answer)
        self.facts = gate.Facts(PLAIN, [None] * setting.questions)

    def test(self, gain: float, *, greedy_loss: float = 0.0) -> gate.Decision:
        """Test a candidate with a mean gain over the serving version.

        With `greedy_loss` its greedy answers are the serving version's, and it loses this share of
        the right ones.
        """
        served = self.world.shares[self.serving]
        self.world.shares[CANDIDATE] = self.kind.candidate(self.rng, served, gain)
        greedy_of = {CANDIDATE: (self.serving, greedy_loss)} if greedy_loss else {}
        self.world.greedy_of = greedy_of
        self.book.open(self.examples, (BASE, self.serving), PLAIN)
        comparison = Comparison(self.book, self.examples, self.serving, CANDIDATE)
        return gate.decide(comparison, self.facts, k=RESPONSES)


def row(setting: Setting, *, lives: int, powers: int) -> dict[str, Any]:
    """Return a row of the table: shares of promotions, from `lives` lives.

    The power is that of a better candidate at each of STAGES in the first `powers` lives.
    """
    figures: dict[str, list[float]] = {}

    def count(name: str, promoted: bool) -> None:
        figures.setdefault(name, []).append(float(promoted))

    for number in range(lives):
        life = Life(setting, number)
        useless = _is_promoted_once(life, 0.0, count if number < powers else None)
        count("useless, once in 50 tests", useless)
        count("2 points worse, once in 50 tests", _is_promoted_once(Life(setting, number), WORSE))
    for number in range(powers):
        decision = Life(setting, number).test(0.10, greedy_loss=GREEDY_LOSS)
        count("+10, greedy worse", decision.promote)
    shares = {name: round(float(np.mean(values)), 4) for name, values in figures.items()}
    kind = setting.kind
    return {
        "questions": kind.name,
        "spread": kind.spread,
        "serving": kind.serving_gain,
        "held out": setting.questions,
        **shares,
        "lives": lives,
    }


def _is_promoted_once(life: Life, gain: float, count: Count | None = None) -> bool:
    """Make MAX_TESTS tests of candidates with this gain; tell whether one was promoted.

    `count` gets the result of better candidates, which are tested beside them at STAGES.
    """
    for test in range(1, gate.MAX_TESTS + 1):
        for better in GAINS if count and test in STAGES else ():
            assert count is not None
            count(f"+{100 * better:.0f} at test {test}", life.test(better).promote)
        if life.test(gain).promote:
            return True
    return False
