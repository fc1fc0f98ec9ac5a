"""Answers to held-out questions for tests of the gate: scripted shares of right ones, or random.

def test_x():
    draw = ScriptedDraw(base=0.4, candidate=0.6)         # the base serves
    decision = gate.decide(draw, facts(64), k=16)
    assert draw.requests == [(GREEDY, 0, 1), (PLAIN, 0, 16)]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.versions import comparison, gate
from tempo_trainer.versions.answers import Answers, Sides
from tempo_trainer.versions.gate import Facts

QUESTIONS = 64
DIGEST = "digest of the held-out questions"
# Shares of right answers of a candidate, where those of base and serving version are a half.
PROVEN = 0.75
UNPROVEN = 0.5
WORSE = 0.25
Shares = NDArray[np.floating]


def answers(right: ArrayLike, texts: Sequence[Sequence[str]] | None = None) -> Answers:
    """Return answers of ten tokens; `right` is (Q, n), true where a response is right.

    A right answer is the number of its question, and a wrong one is "wrong".
    """
    is_right = np.asarray(right, dtype=bool)
    own = [[str(q) if one else "wrong" for one in row] for q, row in enumerate(is_right.tolist())]
    return Answers(
        outcomes=np.where(is_right, 1.0, -1.0),
        texts=texts or own,
        lengths=np.full(is_right.shape, 10.0),
        truncated=np.zeros(is_right.shape),
    )


def exact(shares: Shares, n: int) -> Answers:
    """Return `n` answers to each question, of which exactly the share is right, rounded."""
    return answers(np.arange(n) < np.round(shares * n)[:, None])


def facts(questions: int = QUESTIONS, **changed: Any) -> Facts:
    """Return facts that speak against nothing: plain decoding, no group and no gap."""
    defaults = {"decoding": PLAIN, "groups": [None] * questions}
    return Facts(**(defaults | changed))


@dataclass
class ScriptedDraw:
    """Stands for the comparison of three versions. A number counts for all questions.

    Responses are random with `rng`, and have exactly the given shares without. A side's greedy
    answers are right with the shares of `greedy`, or where its share is at least a half.
    """

    base: Any
    candidate: Any
    serving: Any = None
    """None: the base serves."""
    questions: int = QUESTIONS
    greedy: Mapping[str, Any] = field(default_factory=dict)
    rng: np.random.Generator | None = None
    requests: list[tuple[Decoding, int, int]] = field(default_factory=list)

    def __call__(self, decoding: Decoding, start: int, n: int) -> Sides:
        self.requests.append((decoding, start, n))
        base = self._answers("base", decoding, n)
        serving = base if self.serving is None else self._answers("serving", decoding, n)
        candidate = self._answers("candidate", decoding, n)
        return Sides(base, serving, candidate, self.serving is None)

    def _answers(self, side: str, decoding: Decoding, n: int) -> Answers:
        shares = self._by_question(getattr(self, side))
        if decoding.is_greedy:
            return exact(self._by_question(self.greedy.get(side, shares >= 0.5)), n)
        if self.rng is None:
            return exact(shares, n)
        return answers(self.rng.random((self.questions, n)) < shares[:, None])

    def _by_question(self, shares: ArrayLike) -> Shares:
        return np.broadcast_to(np.asarray(shares, dtype=float), (self.questions,))


def spread(mean: float, *, by: float = 0.2, questions: int = QUESTIONS) -> Shares:
    """Return shares around a mean that differ over questions, so that there is an error."""
    return np.linspace(mean - by, mean + by, questions)


def gate_result(share: float, **changed: Any) -> comparison.TestedCandidate:
    """Return the gate's decision on a candidate with this share of right answers, and a report."""
    draw = ScriptedDraw(base=0.5, serving=0.5, candidate=spread(share), greedy={"candidate": 1})
    decision = gate.decide(draw, facts(**changed), k=8)
    return comparison.TestedCandidate(decision, comparison.report(decision, PLAIN), DIGEST)
