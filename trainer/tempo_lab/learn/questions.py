"""Two sets of questions with a number as the answer, and their partition.

`sums` asks for the number alone. `stories` asks for the steps, too. No two questions of a set are
equal up to the order of their numbers.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

from tempo_trainer.sampling import verifiers

VERIFIER = "numeric"
LABELED = 128
ASKED = 256
UNSEEN = 256


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
    about: str
    """One line for a reader of the table."""
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


def _sums() -> Iterator[Question]:
    for a, b in combinations(range(10, 111), 2):
        yield Question(f"What is {a} + {b}? Reply with the number only.", a + b)


def _stories() -> Iterator[Question]:
    things = ("apples", "books", "coins", "stamps", "shells")
    for a, b, c in product(range(2, 13), range(2, 13), range(1, 41)):
        thing = things[(a + b + c) % len(things)]
        yield Question(
            f"Tom buys {a} boxes with {b} {thing} in each box. He already had {c} {thing}. "
            f"How many {thing} does he have now? Think step by step, and end with: "
            "The answer is [number].",
            a * b + c,
        )


SETS = {
    one.name: one
    for one in (
        QuestionSet("sums", "sums of two numbers from 10 to 110", 16, _sums),
        QuestionSet("stories", "word problems in two steps, with worked reasoning", 128, _stories),
    )
}
