"""Two sets of questions with a number as the answer, and their partition.

Both sets ask for the last number of a list of four. `last` asks for the number alone, and
`explained` asks for an explanation before it. No two questions of a set are equal up to the order
of their numbers.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
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


def _draws(numbers: range, count: int) -> Iterator[list[int]]:
    """Yield draws of `count` different numbers, no two draws equal up to order."""
    random_numbers = random.Random(0)
    seen: set[frozenset[int]] = set()
    while len(seen) < QUESTIONS:
        draw = random_numbers.sample(numbers, count)
        if frozenset(draw) not in seen:
            seen.add(frozenset(draw))
            yield draw


def _last(request: str) -> Iterator[Question]:
    for draw in _draws(range(10, 100), 4):
        yield Question(
            f"Here is a list of numbers: {', '.join(map(str, draw))}. "
            f"What is the last number of the list? {request}",
            draw[-1],
        )


NUMBER = "Reply with the number only."
EXPLAINED = "Explain your answer in three sentences. End with: The answer is [number]."
SETS = {
    one.name: one
    for one in (
        QuestionSet("last", 16, partial(_last, NUMBER)),
        QuestionSet("explained", 96, partial(_last, EXPLAINED)),
    )
}
