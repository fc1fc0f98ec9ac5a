"""Two sets of questions with a number as the answer, and their partition.

`smallest` asks for the number alone. `largest` asks for an explanation, too. SmolLM2 answers both
worse than by chance, which is a third, when it samples at temperature 1. No two questions of a set
are equal up to the order of their numbers.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from tempo_trainer.sampling import verifiers

VERIFIER = "numeric"
LABELED = 128
ASKED = 256
UNSEEN = 256
QUESTIONS = 6_000


@dataclass(frozen=True)
class Question:
    """A question and the number that answers it."""

    question: str
    """The question as a user asks it."""
    answer: int

    def is_solved_by(self, response: str) -> bool:
        """Whether a response is right."""
        verdict = verifiers.load(VERIFIER).verify(response, [str(self.answer)], {})
        return verdict.correct

    @property
    def labeled_row(self) -> dict[str, Any]:
        """A line of a labeled file."""
        return {"question": self.question, "answer": self.answer, "verifier": VERIFIER}


class Split(NamedTuple):
    """Disjoint parts of a set."""

    labeled: tuple[Question, ...]
    asked: tuple[Question, ...]
    unseen: tuple[Question, ...]


@dataclass(frozen=True)
class QuestionSet:
    """All questions of one kind."""

    name: str
    max_tokens: int
    """Limit of a response, for users, rollouts and measurements alike."""
    make: Callable[[], Iterator[Question]]

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Return all questions, in a fixed order."""
        return tuple(self.make())

    def split(self, seed: int) -> Split:
        """Draw the parts of a run by a hash of seed and question."""

        def rank(question: Question) -> bytes:
            return hashlib.sha256(f"{seed} {question.question}".encode()).digest()

        drawn = tuple(sorted(self.questions, key=rank)[: LABELED + ASKED + UNSEEN])
        end = LABELED + ASKED
        return Split(drawn[:LABELED], drawn[LABELED:end], drawn[end:])


def _triples() -> Iterator[tuple[int, int, int]]:
    """Yield different triples of numbers, no two of them equal up to order."""
    random_numbers = random.Random(0)
    seen: set[frozenset[int]] = set()
    while len(seen) < QUESTIONS:
        a, b, c = random_numbers.sample(range(100, 1000), 3)
        if frozenset((a, b, c)) not in seen:
            seen.add(frozenset((a, b, c)))
            yield a, b, c


def _smallest() -> Iterator[Question]:
    for a, b, c in _triples():
        text = f"Which number is the smallest: {a}, {b} or {c}? Reply with the number only."
        yield Question(text, min(a, b, c))


def _largest() -> Iterator[Question]:
    for a, b, c in _triples():
        yield Question(
            f"Which number is the largest: {a}, {b} or {c}? Explain how you compare the numbers "
            "in two sentences. End with: The answer is [number].",
            max(a, b, c),
        )


SETS = {
    one.name: one
    for one in (
        QuestionSet("smallest", 16, _smallest),
        QuestionSet("largest", 96, _largest),
    )
}
