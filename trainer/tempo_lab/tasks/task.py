"""What a small base model is trained on: a task in words, each question with its responses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Exercise(NamedTuple):
    """A question with honest attempts, right or wrong, and with its right responses."""

    question: str
    attempts: list[str]
    solutions: list[str]


@dataclass(frozen=True, slots=True)
class Task:
    """All questions of a task; every question has as many words as any other, so has a response."""

    name: str
    words: tuple[str, ...]
    """Every word of a question or a response."""
    exercises: Callable[[], Iterable[Exercise]]
    """Return all of them, in a fixed order."""
