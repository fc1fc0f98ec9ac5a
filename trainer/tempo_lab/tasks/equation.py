"""Equations with one unknown: guess it, calculate, and say whether the equation holds.

    x * 3 + 4 = 25 ?   ->   7 * 3 = 21 ; 21 + 4 = 25 ; ok 7
    x * 3 + 4 = 25 ?   ->   5 * 3 = 15 ; 15 + 4 = 19 ; no 5

The unknown and the two other numbers are 1-16. The operations are + - *, from left to right, with
every result in 0..100, and never times 1: there are 19,246 questions. Each has exactly one right
answer, so that a vote is fair. The last number is the answer, and the verifier `numeric` reads it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tempo_lab.tasks.task import MAX_RESULT, NUMBERS, Exercise, Task, is_for_base, normalised

SYMBOLS = ("x", "?", "+", "-", "*", "=", ";", "ok", "no")
Operation = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Equation:
    """An operation on x, another one on its result, and the result of both."""

    first: Operation
    second: Operation
    result: int

    @property
    def is_for_base(self) -> bool:
        """Whether the base may train on it; equal functions of x are on the same side."""
        at_0, at_1 = (self._calculated(x) for x in (0, 1))
        return is_for_base(f"{at_1 - at_0}*x+{at_0}")

    def _calculated(self, x: int) -> int:
        for sign, n in (self.first, self.second):
            x = _calculated(x, sign, n)
        return x

    @property
    def question(self) -> str:
        """The question as a user asks it."""
        return "x {} {} {} {} = {} ?".format(*self.first, *self.second, self.result)

    def attempts(self) -> dict[int, str]:
        """Return the response for each guess whose results are in range, with an honest verdict."""
        return {
            x: f"{x} {self.first[0]} {self.first[1]} = {middle} ;"
            f" {middle} {self.second[0]} {self.second[1]} = {result} ;"
            f" {'ok' if result == self.result else 'no'} {x}"
            for x in NUMBERS
            if (middle := _apply(x, self.first)) is not None
            and (result := _apply(middle, self.second)) is not None
        }

    @property
    def solution(self) -> int:
        """The unknown; there is only one, because both operations are one-to-one."""
        return next(x for x, text in self.attempts().items() if " ok " in text)


@cache
def equations() -> tuple[Equation, ...]:
    """Return all equations, in a fixed order."""
    operations = [(sign, n) for sign in "+-*" for n in NUMBERS if (sign, n) != ("*", 1)]
    return tuple(
        Equation(first, second, result)
        for first in operations
        for second in operations
        for x in NUMBERS
        if (middle := _apply(x, first)) is not None
        and (result := _apply(middle, second)) is not None
    )


def exercises() -> Iterator[Exercise]:
    """Yield the equations of the base with all guesses, and with the right one."""
    for equation in equations():
        if not equation.is_for_base:
            continue
        guesses = list(equation.attempts().values())
        yield Exercise(equation.question, guesses, [text for text in guesses if " ok " in text])


EQUATION = Task("equation", SYMBOLS, exercises)


def draw(seed: int, count: int) -> list[Equation]:
    """Draw different equations that no base trains on, the same ones for the same seed."""
    others = [equation for equation in equations() if not equation.is_for_base]
    return random.Random(seed).sample(others, count)


def is_honest(question: str, response: str) -> bool:
    """Return whether the arithmetic is right and the closing verdict agrees with its result."""
    equation = _by_question().get(question)
    return equation is not None and normalised(response) in equation.attempts().values()


@cache
def _by_question() -> dict[str, Equation]:
    return {equation.question: equation for equation in equations()}


def labeled_row(equation: Equation) -> dict[str, object]:
    """Return one line of a labeled file.

    The metadata have a whole response, for a method that learns it by heart.
    """
    return {
        "messages": [{"role": "user", "content": equation.question}],
        "reference_answer": str(equation.solution),
        "verifier": "numeric",
        "metadata": {"solution": equation.attempts()[equation.solution]},
    }


def _apply(value: int, operation: Operation) -> int | None:
    """Return the result of an operation on a value, or None if it is outside of 0..100."""
    result = _calculated(value, *operation)
    return result if 0 <= result <= MAX_RESULT else None


def _calculated(value: int, sign: str, n: int) -> int:
    return {"+": value + n, "-": value - n, "*": value * n}[sign]
