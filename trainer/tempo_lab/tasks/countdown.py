"""Countdown: reach a target from three numbers in two operations, then say whether it worked.

    use 3 10 15 make 75 ?   ->   15 + 10 = 25 ; 25 * 3 = 75 ; ok
    use 3 10 15 make 75 ?   ->   15 - 10 = 5 ; 5 * 3 = 15 ; no

Numbers are 1-16 and may repeat; a derivation uses each of them once, with + - *, the larger operand
first, every result in 0..100, and never times 0 or 1, nor minus 0. A target can be reached, is at
least 2 and none of the numbers: 6,825 questions. A response is correct when it calculates rightly,
uses each number once and ends at the target; the closing `ok` or `no` is the model's own verdict
and part of the form only.
"""

import operator
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

from tempo_lab.tasks.task import Exercise, Task
from tempo_trainer.sampling.verifiers import Metadata, References, Verdict

LARGEST_NUMBER = 16
LARGEST_RESULT = 100
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SYMBOLS = ("use", "make", "?", "+", "-", "*", "=", ";", "ok", "no")
WORDS = (*(str(n) for n in range(LARGEST_RESULT + 1)), *SYMBOLS)
"""Every word of a question or a response."""

QUESTION = re.compile(r"use (\d{1,6}) (\d{1,6}) (\d{1,6}) make (\d{1,6}) \?")
OPERATION = r"(\d{1,6}) ([-+*]) (\d{1,6}) = (\d{1,6})"
DERIVATION = re.compile(rf"{OPERATION} ; {OPERATION}( ; (?:ok|no))?")

Numbers = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Three sorted numbers and a target."""

    numbers: Numbers
    target: int

    @property
    def question(self) -> str:
        """What a user asks."""
        return f"use {' '.join(map(str, self.numbers))} make {self.target} ?"


@dataclass(frozen=True, slots=True)
class Derivation:
    """Two operations that use each of three numbers once, and what they come to."""

    text: str
    result: int

    def attempt(self, target: int) -> str:
        """Return the whole response for a target, closed by an honest verdict."""
        return f"{self.text} ; {'ok' if self.result == target else 'no'}"


@cache
def derivations(numbers: Numbers) -> tuple[Derivation, ...]:
    """Return every different legal derivation from three numbers, in a fixed order."""
    found = {}
    for left, right, rest in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for first, middle in _operations(numbers[left], numbers[right]):
            for second, result in _operations(middle, numbers[rest]):
                found[f"{first} ; {second}"] = result
    return tuple(Derivation(text, result) for text, result in found.items())


def solutions(puzzle: Puzzle) -> tuple[Derivation, ...]:
    """Return the derivations that reach the target."""
    return tuple(d for d in derivations(puzzle.numbers) if d.result == puzzle.target)


@cache
def puzzles() -> tuple[Puzzle, ...]:
    """Return all 6,825 puzzles, in a fixed order."""
    every = range(1, LARGEST_NUMBER + 1)
    return tuple(
        Puzzle(numbers, target)
        for numbers in combinations_with_replacement(every, 3)
        for target in sorted({d.result for d in derivations(numbers)} - set(numbers))
        if target >= 2
    )


def exercises() -> Iterator[Exercise]:
    """Yield every puzzle with its honest attempts and its solutions."""
    for puzzle in puzzles():
        attempts, right = (
            [d.attempt(puzzle.target) for d in found]
            for found in (derivations(puzzle.numbers), solutions(puzzle))
        )
        yield Exercise(puzzle.question, attempts, right)


COUNTDOWN = Task("countdown", WORDS, exercises)


def is_correct(question: str, response: str) -> bool:
    """Say whether a response answers a question; a question of another form has no answer."""
    asked = QUESTION.fullmatch(_normalised(question))
    if asked is None:
        return False
    *numbers, target = map(int, asked.groups())
    return _judge(response, numbers, target).correct


def is_honest(question: str, response: str) -> bool:
    """Say whether the arithmetic is right and so is the verdict, whatever it comes to."""
    asked = QUESTION.fullmatch(_normalised(question))
    if asked is None:
        return False
    a, b, c, target = map(int, asked.groups())
    found = derivations((a, b, c))
    return _normalised(response) in {derivation.attempt(target) for derivation in found}


class Countdown:
    """The verifier `countdown`: a reference is one known solution, and any other one counts too."""

    name = "countdown"

    def check_reference(self, reference: References) -> str | None:
        """Return what is wrong with a reference, or None."""
        for text in reference:
            steps = _steps(text)
            if steps is None:
                return f'{text!r} is no solution; write "15 + 10 = 25 ; 25 * 3 = 75"'
            if problem := _problem(*steps):
                return f"{text!r} is no solution: {problem}"
        return None if reference else "a countdown needs one solution as its reference"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Judge a response by the numbers and the target of the known solution."""
        steps = _steps(reference[0]) if reference else None
        if steps is None:
            return Verdict(correct=False, reason="the reference is no solution")
        return _judge(response, _numbers_used(*steps), steps[1].result)


class _Step(NamedTuple):
    left: int
    operator: str
    right: int
    result: int

    @property
    def is_right(self) -> bool:
        return bool(OPERATORS[self.operator](self.left, self.right) == self.result)


def _operations(a: int, b: int) -> list[tuple[str, int]]:
    """Return the legal operations on two numbers, each as its text and its result."""
    high, low = max(a, b), min(a, b)
    legal = "+-*"[: 1 + min(low, 2)]  # never minus 0, nor times 0 or 1
    results = {sign: OPERATORS[sign](high, low) for sign in legal}
    return [
        (f"{high} {sign} {low} = {result}", result)
        for sign, result in results.items()
        if result <= LARGEST_RESULT
    ]


def _normalised(text: str) -> str:
    return " ".join(text.split())


def _steps(text: str) -> tuple[_Step, _Step] | None:
    """Parse a derivation, with or without its verdict."""
    match = DERIVATION.fullmatch(_normalised(text))
    if match is None:
        return None
    a, op, b, c, d, op_2, e, f, _ = match.groups()
    return _Step(int(a), op, int(b), int(c)), _Step(int(d), op_2, int(e), int(f))


def _problem(first: _Step, second: _Step) -> str | None:
    """Return what is wrong with a derivation, whatever it should use or come to."""
    for step in (first, second):
        if not step.is_right:
            return f"{step.left} {step.operator} {step.right} is not {step.result}"
    if first.result not in (second.left, second.right):
        return f"{first.result} is not used again"
    return None


def _numbers_used(first: _Step, second: _Step) -> list[int]:
    """Return the three numbers of a chained derivation: all operands but the first result."""
    again = second.right if first.result == second.left else second.left
    return [first.left, first.right, again]


def _judge(response: str, numbers: Sequence[int], target: int) -> Verdict:
    steps = _steps(response)
    if steps is None:
        return Verdict(correct=False, reason="not two operations")
    result = steps[1].result
    problem = _problem(*steps)
    if problem is None and sorted(_numbers_used(*steps)) != sorted(numbers):
        problem = f"the numbers are not {' '.join(map(str, numbers))}, each once"
    if problem is None and result != target:
        problem = f"ends at {result}, not at {target}"
    return Verdict(correct=problem is None, extracted=str(result), reason=problem or "")


class Split(NamedTuple):
    """Disjoint puzzles for one demonstration."""

    labeled: tuple[Puzzle, ...]
    unlabeled: tuple[Puzzle, ...]
    unseen: tuple[Puzzle, ...]


def split(seed: int, *, labeled: int = 512, unlabeled: int = 192, unseen: int = 128) -> Split:
    """Draw disjoint sets of puzzles, the same ones for the same seed."""
    drawn = random.Random(seed).sample(puzzles(), labeled + unlabeled + unseen)
    end = labeled + unlabeled
    return Split(tuple(drawn[:labeled]), tuple(drawn[labeled:end]), tuple(drawn[end:]))


def labeled_row(puzzle: Puzzle) -> dict[str, object]:
    """Return one line of the labeled set: the question and one known solution."""
    return {
        "messages": [{"role": "user", "content": puzzle.question}],
        "reference_answer": solutions(puzzle)[0].text,
        "verifier": Countdown.name,
    }
