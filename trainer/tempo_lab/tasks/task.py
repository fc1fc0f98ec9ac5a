"""A task for a small base model: questions in words of a closed vocabulary, with responses."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

NUMBERS = range(1, 17)
MAX_RESULT = 100


class Exercise(NamedTuple):
    """A question with honest attempts, right or wrong, and with its right responses."""

    question: str
    attempts: list[str]
    solutions: list[str]


def is_for_base(key: str) -> bool:
    """Tell whether the base may train on the questions of a key: 60 % of all keys, by hash.

    The base never sees the others. Users ask them, labels answer them, and they measure.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) < 0.6 * 2**32


@dataclass(frozen=True, slots=True)
class Task:
    """All questions of a task. They have the same number of words, and so have all responses."""

    name: str
    symbols: tuple[str, ...]
    """The words of questions and responses that are not numbers."""
    exercises: Callable[[], Iterable[Exercise]]
    """Return the exercises that the base trains on, in a fixed order."""

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of a question or a response."""
        return (*map(str, range(MAX_RESULT + 1)), *self.symbols)


def normalised(text: str) -> str:
    """Return a text with single spaces between its words."""
    return " ".join(text.split())
