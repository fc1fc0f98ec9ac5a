"""Countdown: which responses are right, and that the puzzles are what the docstring says."""

import random

import pytest

from tempo_lab.tasks.countdown import (
    Countdown,
    Puzzle,
    derivations,
    is_correct,
    labeled_row,
    puzzles,
    solutions,
    split,
)

QUESTION = "use 3 10 15 make 75 ?"
REFERENCE = ["15 + 10 = 25 ; 25 * 3 = 75"]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("15 + 10 = 25 ; 25 * 3 = 75 ; ok", ""),
        ("10 + 15 = 25 ; 3 * 25 = 75", ""),
        ("15 + 10 = 25 ;  25 * 3 = 75 ; no", ""),
        ("15 + 10 = 24 ; 24 * 3 = 72 ; no", "15 + 10 is not 24"),
        ("15 + 10 = 25 ; 25 * 3 = 76 ; ok", "25 * 3 is not 76"),
        ("15 * 10 = 150 ; 25 * 3 = 75 ; ok", "150 is not used again"),
        ("15 + 15 = 30 ; 30 * 3 = 90 ; no", "the numbers are not 3 10 15, each once"),
        ("15 - 10 = 5 ; 5 * 3 = 15 ; no", "ends at 15, not at 75"),
        ("15 * 5 = 75 ; ok", "not two operations"),
        (f"15 + 10 = {'9' * 5000} ; 25 * 3 = 75", "not two operations"),
        ("", "not two operations"),
    ],
)
def test_a_response_is_right_when_it_calculates_to_the_target_with_each_number_once(
    response: str, reason: str
) -> None:
    verdict = Countdown().verify(response, REFERENCE, {})
    assert (verdict.correct, verdict.reason or "") == (not reason, _numbers(reason))
    assert is_correct(QUESTION, response) is verdict.correct


def _numbers(reason: str) -> str:
    # The verifier knows the numbers from its reference, in the order of use.
    return reason.replace("3 10 15", "15 10 3")


def test_any_solution_counts_not_only_the_reference() -> None:
    puzzle = next(p for p in puzzles() if len(solutions(p)) > 1)
    first, *others = (d.attempt(puzzle.target) for d in solutions(puzzle))
    assert all(Countdown().verify(other, [first], {}).correct for other in others)


def test_a_question_of_another_form_has_no_right_response() -> None:
    assert not is_correct("use 3 10 make 13 ?", "10 + 3 = 13 ; 13 + 0 = 13 ; ok")


def test_a_derivation_is_a_reference() -> None:
    assert Countdown().check_reference(REFERENCE) is None


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ([], "needs one solution"),
        (["75"], "is no solution; write"),
        (["15 + 10 = 26 ; 26 * 3 = 78"], "15 + 10 is not 26"),
        (["15 + 10 = 25 ; 15 * 3 = 45"], "25 is not used again"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(reference: list[str], problem: str) -> None:
    assert problem in (Countdown().check_reference(reference) or "")


def test_without_a_derivation_as_reference_no_response_is_right() -> None:
    assert not Countdown().verify(REFERENCE[0], ["75"], {}).correct
    assert not Countdown().verify(REFERENCE[0], [], {}).correct


def test_there_are_6825_puzzles_and_each_has_a_solution() -> None:
    every = puzzles()
    assert len(set(every)) == len(every) == 6825
    assert all(2 <= p.target <= 100 and p.target not in p.numbers for p in every)
    for puzzle in random.Random(0).sample(every, 200):
        assert all(is_correct(puzzle.question, d.text) for d in solutions(puzzle))
        assert solutions(puzzle)


def test_every_derivation_keeps_to_the_form() -> None:
    found = derivations((1, 1, 16))
    assert "16 + 1 = 17 ; 17 - 1 = 16" in {d.text for d in found}
    assert not any(" * 1 " in d.text or " - 0 " in d.text for d in found)
    assert len({d.text for d in found}) == len(found)


def test_an_attempt_judges_itself_honestly() -> None:
    puzzle = Puzzle((3, 10, 15), 75)
    for derivation in derivations(puzzle.numbers):
        attempt = derivation.attempt(puzzle.target)
        assert attempt.endswith("ok") is is_correct(puzzle.question, attempt)


def test_a_split_is_disjoint_and_the_same_for_its_seed() -> None:
    drawn = split(3, labeled=20, unlabeled=10, unseen=5)
    parts = (*drawn.labeled, *drawn.unlabeled, *drawn.unseen)
    assert len(set(parts)) == 35
    assert drawn == split(3, labeled=20, unlabeled=10, unseen=5)
    assert drawn != split(4, labeled=20, unlabeled=10, unseen=5)


def test_a_labeled_row_is_accepted_by_its_own_verifier() -> None:
    row = labeled_row(puzzles()[0])
    assert row["verifier"] == "countdown"
    assert Countdown().check_reference([str(row["reference_answer"])]) is None
