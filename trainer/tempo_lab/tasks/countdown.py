"""Countdown: reach a target from three numbers in two operations, then say whether that worked.

    use 3 10 15 make 75 ?   ->   15 + 10 = 25 ; 25 * 3 = 75 ; ok
    use 3 10 15 make 75 ?   ->   15 - 10 = 5 ; 5 * 3 = 15 ; no

Numbers are 1-16 and may repeat. A derivation uses each of them once, with + - *, the larger operand
first, every result in 0..100, and never times 0 or 1, nor minus 0. A target can be reached, is at
least 2 and is none of the numbers: there are 6,825 questions. A response is correct if its
arithmetic is right, it uses each number once and it ends at the target. The closing `ok` or `no` is
the model's own verdict, and only a part of the form. The bare form ends before it, so that a critic
must compare the result with the target itself.
"""

import operator
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

from tempo_lab.tasks.task import MAX_RESULT, NUMBERS, Exercise, Task, is_for_base, normalised
from tempo_trainer.sampling.verifiers import Metadata, References, Verdict

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
VERDICTS = ("ok", "no")
SYMBOLS = ("use", "make", "?", "+", "-", "*", "=", ";", *VERDICTS)

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
    def is_for_base(self) -> bool:
        """Whether the base may train on it; all puzzles of three numbers are on the same side."""
        return is_for_base(str(self.numbers))

    @property
    def question(self) -> str:
        """The question as a user asks it."""
        return f"use {' '.join(map(str, self.numbers))} make {self.target} ?"

    def is_solved_by(self, response: str) -> bool:
        """Whether a response is right."""
        return _verdict(response, self.numbers, self.target).correct


@dataclass(frozen=True, slots=True)
class Derivation:
    """Two operations that use each of three numbers once, and their result."""

    text: str
    result: int

    def attempt(self, target: int, *, bare: bool = False) -> str:
        """Return the whole response for a target, with an honest verdict at its end, or bare."""
        return self.text if bare else f"{self.text} ; {'ok' if self.result == target else 'no'}"


@cache
def derivations(numbers: Numbers) -> tuple[Derivation, ...]:
    """Return every different legal derivation from three numbers, in a fixed order."""
    results = {}
    for left, right, rest in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for first, middle in _operations(numbers[left], numbers[right]):
            for second, result in _operations(middle, numbers[rest]):
                results[f"{first} ; {second}"] = result
    return tuple(Derivation(text, result) for text, result in results.items())


def solutions(puzzle: Puzzle) -> tuple[Derivation, ...]:
    """Return the derivations that reach the target."""
    return tuple(d for d in derivations(puzzle.numbers) if d.result == puzzle.target)


@cache
def puzzles() -> tuple[Puzzle, ...]:
    """Return all 6,825 puzzles, in a fixed order."""
    return tuple(
        Puzzle(numbers, target)
        for numbers in combinations_with_replacement(NUMBERS, 3)
        for target in sorted({d.result for d in derivations(numbers)} - set(numbers))
        if target >= 2
    )


def exercises(*, bare: bool = False) -> Iterator[Exercise]:
    """Yield the puzzles of the base, with their honest attempts and their solutions."""
    for puzzle in puzzles():
        if not puzzle.is_for_base:
            continue
        attempts = [d.attempt(puzzle.target, bare=bare) for d in derivations(puzzle.numbers)]
        right = [d.attempt(puzzle.target, bare=bare) for d in solutions(puzzle)]
        yield Exercise(puzzle.question, attempts, right)


def bare_exercises() -> Iterator[Exercise]:
    """Yield the same in the bare form."""
    return exercises(bare=True)


COUNTDOWN = Task("countdown", SYMBOLS, exercises)
BARE_COUNTDOWN = Task("countdown-bare", SYMBOLS[: -len(VERDICTS)], bare_exercises)


def is_honest(question: str, response: str) -> bool:
    """Return whether the arithmetic is right and the closing verdict agrees with its result."""
    return _is_attempt(question, response, bare=False)


def is_honest_bare(question: str, response: str) -> bool:
    """Return whether the arithmetic of a bare response is right."""
    return _is_attempt(question, response, bare=True)


def _is_attempt(question: str, response: str, *, bare: bool) -> bool:
    match = QUESTION.fullmatch(normalised(question))
    if match is None:
        return False
    a, b, c, target = map(int, match.groups())
    attempts = {d.attempt(target, bare=bare) for d in derivations((a, b, c))}
    return normalised(response) in attempts


class Countdown:
    """The verifier `countdown`: a reference is one solution, and every other one counts, too."""

    name = "countdown"

    def check_reference(self, reference: References) -> str | None:
        """Return why a reference cannot be used, or None."""
        for text in reference:
            steps = _steps(text)
            if steps is None:
                return f'{text!r} is no solution; write "15 + 10 = 25 ; 25 * 3 = 75"'
            if problem := _problem(*steps):
                return f"{text!r} is no solution: {problem}"
        return None if reference else "a countdown needs one solution as its reference"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Verify a response by the numbers and the target of the reference."""
        if not reference:
            is_derivation = _steps(response) is not None
            return Verdict(correct=False, extracted=normalised(response) if is_derivation else None)
        steps = _steps(reference[0])
        if steps is None:
            return Verdict(correct=False, reason="the reference is no solution")
        return _verdict(response, _numbers_used(*steps), steps[1].result)


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
    high = max(a, b)
    low = min(a, b)
    legal = "+-*"[: 1 + min(low, 2)]  # never minus 0, nor times 0 or 1
    results = {sign: OPERATORS[sign](high, low) for sign in legal}
    return [
        (f"{high} {sign} {low} = {result}", result)
        for sign, result in results.items()
        if result <= MAX_RESULT
    ]


def _steps(text: str) -> tuple[_Step, _Step] | None:
    """Parse a derivation, with or without its verdict."""
    match = DERIVATION.fullmatch(normalised(text))
    if match is None:
        return None
    a, op, b, c, d, op_2, e, f, _ = match.groups()
    return _Step(int(a), op, int(b), int(c)), _Step(int(d), op_2, int(e), int(f))


def _problem(first: _Step, second: _Step) -> str | None:
    """Return what is wrong with a derivation by itself, without regard to its question."""
    for step in (first, second):
        if not step.is_right:
            return f"{step.left} {step.operator} {step.right} is not {step.result}"
    if first.result not in (second.left, second.right):
        return f"{first.result} is not used again"
    return None


def _numbers_used(first: _Step, second: _Step) -> list[int]:
    """Return the three numbers of a derivation: all operands except the first result."""
    again = second.right if first.result == second.left else second.left
    return [first.left, first.right, again]


def _verdict(response: str, numbers: Sequence[int], target: int) -> Verdict:
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
    """Disjoint sets of puzzles."""

    labeled: tuple[Puzzle, ...]
    unlabeled: tuple[Puzzle, ...]
    unseen: tuple[Puzzle, ...]


def split(seed: int, *, labeled: int = 512, unlabeled: int = 192, unseen: int = 128) -> Split:
    """Draw disjoint sets of puzzles that no base trains on, the same ones for the same seed."""
    others = [puzzle for puzzle in puzzles() if not puzzle.is_for_base]
    sample = tuple(random.Random(seed).sample(others, labeled + unlabeled + unseen))
    end = labeled + unlabeled
    return Split(sample[:labeled], sample[labeled:end], sample[end:])


def labeled_row(puzzle: Puzzle, *, bare: bool = False) -> dict[str, Any]:
    """Return one line of a labeled file: the question and one solution.

    The metadata have a whole response, for a method that learns it by heart.
    """
    return {
        "messages": [{"role": "user", "content": puzzle.question}],
        "reference_answer": solutions(puzzle)[0].text,
        "verifier": Countdown.name,
        "metadata": {"solution": solutions(puzzle)[0].attempt(puzzle.target, bare=bare)},
    }
