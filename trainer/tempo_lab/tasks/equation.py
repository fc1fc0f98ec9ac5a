"""Equations with one unknown: guess it, calculate, and say whether the equation holds.

    x * 3 + 4 = 25 ?   ->   7 * 3 = 21 ; 21 + 4 = 25 ; ok 7
    x * 3 + 4 = 25 ?   ->   5 * 3 = 15 ; 15 + 4 = 19 ; no 5

The unknown and the two other numbers are 1-16. The operations are + - *, from left to right, with
every result in 0..100, and never times 1: there are 19,246 questions. Each has exactly one right
answer, so that a vote is fair. The last number is the answer, and the verifier `numeric` reads it.
The bare form closes with the answer and without a verdict:

    x * 3 + 4 = 25 ?   ->   5 * 3 = 15 ; 15 + 4 = 19 ; x = 5
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tempo_lab.tasks.task import MAX_RESULT, NUMBERS, Exercise, Task, is_for_base, normalised

VERDICTS = ("ok", "no")
SYMBOLS = ("x", "?", "+", "-", "*", "=", ";", *VERDICTS)
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

    def attempts(self, *, bare: bool = False) -> dict[int, str]:
        """Return the response for each guess whose results are in range.

        It has an honest verdict, or is bare.
        """
        return {
            x: f"{x} {self.first[0]} {self.first[1]} = {middle} ;"
            f" {middle} {self.second[0]} {self.second[1]} = {result} ;"
            f" {'x =' if bare else 'ok' if result == self.result else 'no'} {x}"
            for x, middle, result in self._guesses()
        }

    @property
    def solution(self) -> int:
        """The unknown; there is only one, because both operations are one-to-one."""
        return next(x for x, _, result in self._guesses() if result == self.result)

    def _guesses(self) -> Iterator[tuple[int, int, int]]:
        """Yield each guess whose results are in range, with both results."""
        for x in NUMBERS:
            middle = _apply(x, self.first)
            result = None if middle is None else _apply(middle, self.second)
            if middle is not None and result is not None:
                yield x, middle, result


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


def exercises(*, bare: bool = False) -> Iterator[Exercise]:
    """Yield the equations of the base with all guesses, and with the right one."""
    for equation in equations():
        if not equation.is_for_base:
            continue
        guesses = equation.attempts(bare=bare)
        yield Exercise(equation.question, list(guesses.values()), [guesses[equation.solution]])


def bare_exercises() -> Iterator[Exercise]:
    """Yield the same in the bare form."""
    return exercises(bare=True)


EQUATION = Task("equation", SYMBOLS, exercises)
BARE_EQUATION = Task("equation-bare", SYMBOLS[: -len(VERDICTS)], bare_exercises)


def draw(seed: int, count: int) -> list[Equation]:
    """Draw different equations that no base trains on, the same ones for the same seed."""
    others = [equation for equation in equations() if not equation.is_for_base]
    return random.Random(seed).sample(others, count)


def is_honest(question: str, response: str) -> bool:
    """Return whether the arithmetic is right and the closing verdict agrees with its result."""
    return _is_attempt(question, response, bare=False)


def is_honest_bare(question: str, response: str) -> bool:
    """Return whether the arithmetic of a bare response is right, and its answer is its guess."""
    return _is_attempt(question, response, bare=True)


def _is_attempt(question: str, response: str, *, bare: bool) -> bool:
    equation = _by_question().get(question)
    return equation is not None and normalised(response) in equation.attempts(bare=bare).values()


@cache
def _by_question() -> dict[str, Equation]:
    return {equation.question: equation for equation in equations()}


def labeled_row(equation: Equation, *, bare: bool = False) -> dict[str, object]:
    """Return one line of a labeled file.

    The metadata have a whole response, for a method that learns it by heart.
    """
    return {
        "messages": [{"role": "user", "content": equation.question}],
        "reference_answer": str(equation.solution),
        "verifier": "numeric",
        "metadata": {"solution": equation.attempts(bare=bare)[equation.solution]},
    }


def _apply(value: int, operation: Operation) -> int | None:
    """Return the result of an operation on a value, or None if it is outside of 0..100."""
    result = _calculated(value, *operation)
    return result if 0 <= result <= MAX_RESULT else None


def _calculated(value: int, sign: str, n: int) -> int:
    return {"+": value + n, "-": value - n, "*": value * n}[sign]
