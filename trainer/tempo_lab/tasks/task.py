"""A task for a small base model: questions in words of a closed vocabulary, with responses."""

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


@dataclass(frozen=True, slots=True)
class Task:
    """All questions of a task. They have the same number of words, and so have all responses."""

    name: str
    symbols: tuple[str, ...]
    """The words of questions and responses that are not numbers."""
    exercises: Callable[[], Iterable[Exercise]]
    """Return all exercises, in a fixed order."""

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of a question or a response."""
        return (*map(str, range(MAX_RESULT + 1)), *self.symbols)


def normalised(text: str) -> str:
    """Return a text with single spaces between its words."""
    return " ".join(text.split())
