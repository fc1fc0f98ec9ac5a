"""Countdown: right and wrong responses, references, and the puzzles that the docstring promises."""

import random

import pytest

from tempo_lab.tasks.countdown import (
    BARE_COUNTDOWN,
    COUNTDOWN,
    VERDICTS,
    Countdown,
    Puzzle,
    derivations,
    exercises,
    is_honest,
    is_honest_bare,
    labeled_row,
    puzzles,
    solutions,
    split,
)

PUZZLE = Puzzle((3, 10, 15), 75)
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
def test_a_response_is_right_if_it_reaches_the_target_with_each_number_once(
    response: str, reason: str
) -> None:
    verdict = Countdown().verify(response, REFERENCE, {})
    assert (verdict.correct, verdict.reason or "") == (not reason, _numbers(reason))
    assert PUZZLE.is_solved_by(response) is verdict.correct


def _numbers(reason: str) -> str:
    # The verifier knows the numbers from its reference, in the order of use.
    return reason.replace("3 10 15", "15 10 3")


def test_any_solution_counts_not_only_the_reference() -> None:
    puzzle = next(p for p in puzzles() if len(solutions(p)) > 1)
    first, *others = (d.attempt(puzzle.target) for d in solutions(puzzle))
    assert all(Countdown().verify(other, [first], {}).correct for other in others)


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
def test_another_reference_is_refused_with_the_reason(reference: list[str], problem: str) -> None:
    assert problem in (Countdown().check_reference(reference) or "")


def test_without_a_derivation_as_reference_no_response_is_right() -> None:
    assert not Countdown().verify(REFERENCE[0], ["75"], {}).correct
    assert not Countdown().verify(REFERENCE[0], [], {}).correct


def test_there_are_6825_puzzles_and_each_has_a_solution() -> None:
    every = puzzles()
    assert len(set(every)) == len(every) == 6825
    assert all(2 <= p.target <= 100 and p.target not in p.numbers for p in every)
    for puzzle in random.Random(0).sample(every, 200):
        assert all(puzzle.is_solved_by(d.text) for d in solutions(puzzle))
        assert solutions(puzzle)


def test_every_derivation_keeps_to_the_form() -> None:
    texts = [d.text for d in derivations((1, 1, 16))]
    assert "16 + 1 = 17 ; 17 - 1 = 16" in texts
    assert not any(" * 1 " in text or " - 0 " in text for text in texts)
    assert len(set(texts)) == len(texts)


def test_the_verdict_that_closes_an_attempt_is_honest() -> None:
    for derivation in derivations(PUZZLE.numbers):
        attempt = derivation.attempt(PUZZLE.target)
        assert attempt.endswith("ok") is PUZZLE.is_solved_by(attempt)


def test_a_split_is_disjoint_and_the_same_for_its_seed() -> None:
    sets = split(3, labeled=20, unlabeled=10, unseen=5)
    assert len({*sets.labeled, *sets.unlabeled, *sets.unseen}) == 35
    assert sets == split(3, labeled=20, unlabeled=10, unseen=5)
    assert sets != split(4, labeled=20, unlabeled=10, unseen=5)


def test_without_a_reference_the_derivation_is_the_answer() -> None:
    right = "15 + 10 = 25 ; 25 * 3 = 75 ; ok"
    assert Countdown().verify(right, [], {}).extracted == right
    assert Countdown().verify("15 + 10", [], {}).extracted is None


def test_the_solution_of_a_labeled_row_is_a_whole_response() -> None:
    solution = labeled_row(PUZZLE)["metadata"]["solution"]
    assert is_honest(PUZZLE.question, solution)
    assert PUZZLE.is_solved_by(solution)


def test_no_base_sees_the_numbers_of_a_question_that_is_drawn() -> None:
    of_base = {question.split(" make ")[0] for question, *_ in exercises()}
    drawn = {p.question.split(" make ")[0] for part in split(3) for p in part}
    assert not of_base & drawn
    assert 0.57 < sum(p.is_for_base for p in puzzles()) / len(puzzles()) < 0.63


def test_a_labeled_row_is_accepted_by_its_own_verifier() -> None:
    row = labeled_row(puzzles()[0])
    assert row["verifier"] == "countdown"
    assert Countdown().check_reference([str(row["reference_answer"])]) is None


def test_a_bare_response_ends_with_its_result_and_is_verified_alike() -> None:
    solution = labeled_row(PUZZLE, bare=True)["metadata"]["solution"]
    assert solution.endswith("= 75")
    assert is_honest_bare(PUZZLE.question, solution)
    assert not is_honest(PUZZLE.question, solution)
    assert PUZZLE.is_solved_by(solution)


def test_the_bare_base_sees_the_same_puzzles_without_a_verdict() -> None:
    assert set(COUNTDOWN.words) - set(BARE_COUNTDOWN.words) == set(VERDICTS)
    for own, bare in zip(COUNTDOWN.exercises(), BARE_COUNTDOWN.exercises(), strict=True):
        assert bare.question == own.question
        assert bare.attempts == [text.rpartition(" ; ")[0] for text in own.attempts]
        assert bare.solutions == [text.removesuffix(" ; ok") for text in own.solutions]
