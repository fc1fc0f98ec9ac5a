"""Equations with one unknown: guess it, calculate, and say whether it holds.

    x * 3 + 4 = 25 ?   ->   7 * 3 = 21 ; 21 + 4 = 25 ; ok 7
    x * 3 + 4 = 25 ?   ->   5 * 3 = 15 ; 15 + 4 = 19 ; no 5

The unknown is 1-16, as are the two other numbers, with + - * from left to right, every result in
0..100, never times 1: 19,246 questions. Each has exactly one right answer, so that a vote is fair.
The last number is the answer, and the verifier `numeric` reads it there.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tempo_lab.tasks.task import Exercise, Task

LARGEST_NUMBER = 16
LARGEST_RESULT = 100
SYMBOLS = ("x", "?", "+", "-", "*", "=", ";", "ok", "no")
WORDS = (*(str(n) for n in range(LARGEST_RESULT + 1)), *SYMBOLS)
UNKNOWNS = range(1, LARGEST_NUMBER + 1)
Operation = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Equation:
    """x, an operation, another one, and what they come to."""

    first: Operation
    second: Operation
    result: int

    @property
    def question(self) -> str:
        """What a user asks."""
        (a, b), (c, d) = self.first, self.second
        return f"x {a} {b} {c} {d} = {self.result} ?"

    def attempts(self) -> dict[int, str]:
        """Return the response to each guess that keeps to the range, with an honest verdict."""
        return {
            x: f"{x} {self.first[0]} {self.first[1]} = {middle} ;"
            f" {middle} {self.second[0]} {self.second[1]} = {result} ;"
            f" {'ok' if result == self.result else 'no'} {x}"
            for x in UNKNOWNS
            if (middle := _apply(x, self.first)) is not None
            and (result := _apply(middle, self.second)) is not None
        }

    @property
    def solution(self) -> int:
        """The unknown: both operations are one-to-one, so there is one."""
        return next(x for x, text in self.attempts().items() if " ok " in text)


@cache
def equations() -> tuple[Equation, ...]:
    """Return all equations, in a fixed order."""
    operations = [(sign, n) for sign in "+-*" for n in UNKNOWNS if (sign, n) != ("*", 1)]
    return tuple(
        Equation(first, second, result)
        for first in operations
        for second in operations
        for x in UNKNOWNS
        if (middle := _apply(x, first)) is not None
        and (result := _apply(middle, second)) is not None
    )


def exercises() -> Iterator[Exercise]:
    """Yield every equation with all guesses, and with the right one."""
    for equation in equations():
        guesses = list(equation.attempts().values())
        yield Exercise(equation.question, guesses, [text for text in guesses if " ok " in text])


EQUATION = Task("equation", WORDS, exercises)


def draw(seed: int, count: int) -> list[Equation]:
    """Draw different equations, the same ones for the same seed."""
    return random.Random(seed).sample(equations(), count)


def is_honest(question: str, response: str) -> bool:
    """Say whether the arithmetic is right and so is the verdict, whatever it comes to."""
    asked = _by_question().get(question)
    return asked is not None and " ".join(response.split()) in asked.attempts().values()


@cache
def _by_question() -> dict[str, Equation]:
    return {equation.question: equation for equation in equations()}


def labeled_row(equation: Equation) -> dict[str, object]:
    """Return one line of a labeled set."""
    return {
        "messages": [{"role": "user", "content": equation.question}],
        "reference_answer": str(equation.solution),
        "verifier": "numeric",
    }


def _apply(value: int, operation: Operation) -> int | None:
    """Return what an operation makes of a value, or None outside of 0..100."""
    sign, n = operation
    result = {"+": value + n, "-": value - n, "*": value * n}[sign]
    return result if 0 <= result <= LARGEST_RESULT else None
