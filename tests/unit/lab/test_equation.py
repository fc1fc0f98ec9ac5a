"""Equations: one right answer each, and attempts that close with an honest verdict."""

import random

import pytest

from tempo_lab.tasks.equation import (
    BARE_EQUATION,
    EQUATION,
    Equation,
    draw,
    equations,
    exercises,
    labeled_row,
)
from tempo_trainer.sampling.verifiers import Numeric


def test_there_are_19246_equations_with_one_answer_each() -> None:
    every = equations()
    assert len({e.question for e in every}) == len(every) == 19246
    for equation in random.Random(0).sample(every, 200):
        assert sum(" ok " in text for text in equation.attempts().values()) == 1


def test_a_guess_is_calculated_from_left_to_right_and_gets_an_honest_verdict() -> None:
    equation = Equation(("*", 3), ("+", 4), 25)
    assert equation.question == "x * 3 + 4 = 25 ?"
    assert equation.attempts()[7] == "7 * 3 = 21 ; 21 + 4 = 25 ; ok 7"
    assert equation.attempts()[5] == "5 * 3 = 15 ; 15 + 4 = 19 ; no 5"
    assert equation.solution == 7


def test_guesses_whose_results_are_out_of_range_are_left_out() -> None:
    assert 3 not in Equation(("-", 5), ("*", 2), 10).attempts()
    assert max(Equation(("*", 16), ("+", 4), 36).attempts()) == 6  # 16 * 6 + 4 is 100


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("7 * 3 = 21 ; 21 + 4 = 25 ; ok 7", True),
        ("5 * 3 = 15 ; 15 + 4 = 19 ; no 5", False),
        ("7 * 3 = 21 ; 21 + 4 = 25 ; x = 7", True),
        ("5 * 3 = 15 ; 15 + 4 = 19 ; x = 5", False),
        ("7 * 3 = 21 ; 21 + 4 = 25 ; ok", False),
        ("", False),
    ],
)
def test_the_verifier_reads_the_last_number(response: str, right: bool) -> None:
    row = labeled_row(Equation(("*", 3), ("+", 4), 25))
    assert row["verifier"] == Numeric.name
    verdict = Numeric().verify(response, [str(row["reference_answer"])], {})
    assert verdict.correct is right
    # A vote reads the same answer without a reference.
    assert Numeric().verify(response, [], {}).extracted == verdict.extracted


def test_every_response_has_the_same_form() -> None:
    words = set(EQUATION.words)
    for exercise in random.Random(0).sample(list(exercises()), 300):
        assert len(exercise.question.split()) == 8
        assert len(exercise.solutions) == 1
        for text in exercise.attempts:
            assert len(text.split()) == 14
            assert set(text.split()) <= words


def test_no_base_sees_an_equation_that_is_drawn() -> None:
    of_base = {question for question, *_ in exercises()}
    assert not of_base & {equation.question for equation in draw(3, 500)}
    assert 0.57 < len(of_base) / len(equations()) < 0.63


def test_equal_functions_of_x_are_on_the_same_side() -> None:
    pairs = [
        (("+", 2), ("+", 3), ("+", 1), ("+", 4)),
        (("+", 2), ("-", 3), ("-", 3), ("+", 2)),
        (("*", 2), ("*", 6), ("*", 3), ("*", 4)),
    ]
    for a, b, c, d in pairs:
        assert Equation(a, b, 9).is_for_base == Equation(c, d, 20).is_for_base


def test_drawn_equations_differ_and_are_the_same_for_their_seed() -> None:
    assert len(set(draw(3, 50))) == 50
    assert draw(3, 50) == draw(3, 50) != draw(4, 50)


def test_a_bare_response_closes_with_its_answer_within_16_tokens() -> None:
    equation = Equation(("*", 3), ("+", 4), 25)
    assert equation.attempts(bare=True)[5] == "5 * 3 = 15 ; 15 + 4 = 19 ; x = 5"
    words = set(BARE_EQUATION.words)
    assert not words & {"ok", "no"}
    for exercise in random.Random(0).sample(list(BARE_EQUATION.exercises()), 300):
        for text in (*exercise.attempts, *exercise.solutions):
            assert len(text.split()) == 15  # and <eos>
            assert set(text.split()) <= words
