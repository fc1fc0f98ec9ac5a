"""Verifiers read the answer in a response, and compare it with the references."""

import pytest

from tempo_storage.answers.numbers import last_number, number_text
from tempo_storage.boxed import boxes
from tempo_trainer.sampling.verifiers import Choice, Exact, Math, Numeric, answer, load, names


@pytest.fixture(scope="module")
def mathematics() -> Math:
    return Math()


def test_the_last_box_is_the_answer_with_balanced_braces() -> None:
    assert boxes(r"\boxed{1} and \boxed{\frac{1}{2}}")[-1].content == r"\frac{1}{2}"
    assert boxes(r"\boxed{1} and \boxed{\frac{1}{2}")[-1].content == "1"  # the last one is cut off
    assert boxes("none") == []


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        (r"so the answer is 3, or \boxed{4}", "4"),
        ("The final answer is: 42.", "42"),
        ("Answer: B\n", "B"),
        ("step one\n\nParis\n", "Paris"),
        ("<think>the answer is 1</think>It is 2", "It is 2"),
        ("", ""),
    ],
)
def test_the_answer_is_boxed_or_named_or_the_last_line(response: str, extracted: str) -> None:
    assert answer(response) == extracted


def test_a_box_counts_wherever_it_is_and_without_a_mark_the_end_of_a_response() -> None:
    assert answer(r"\boxed{1}" + "\n" * 4096 + "2") == "1"
    assert answer("the line\n" + " 3" * 4096) == " ".join("3" * 2048)


def test_exact_ignores_case_width_and_space() -> None:
    assert Exact().verify("answer: ＮＥＷ   york.", ["Paris", "New York"], {}).correct
    assert not Exact().verify("answer: York", ["New York"], {}).correct
    assert Exact().check_reference(["New York"]) is None
    assert Exact().check_reference(["x", " "]) is not None


def test_numbers_have_separators_signs_and_fractions() -> None:
    for text, value in [("1,234.5", 1234.5), ("about -3", -3), ("3 / 4", 0.75), ("not 5", None)]:
        number = last_number(number_text(text))
        assert (number and number.values[0]) == value, text
    assert last_number(number_text("1/0")) is None


def test_numeric_compares_within_a_relative_tolerance() -> None:
    assert Numeric().verify(r"\boxed{0.5}", ["1/2"], {}).correct
    assert not Numeric().verify(r"\boxed{101}", ["100"], {}).correct
    assert Numeric().verify(r"\boxed{101}", ["100"], {"tolerance": 0.02}).correct
    assert Numeric().verify("no idea", ["100"], {}).reason == "no number"
    assert Numeric().check_reference(["many"]) == "no number in 'many'"


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("**b**", "B"),
        ("(B)", "B"),
        ("B. Paris", "B"),
        ("Answer: B", "B"),
        ("**Answer:** (b)", "B"),
        ("So the correct option is (B), because (A) is wrong", "B"),
        ("the final answer is option J.", "J"),
        (r"\boxed{B}", "B"),
        (r"The answer is: $\boxed{\textbf{(B)}\ 3}$", "B"),
        ("Answer: A. No, wait. Answer: B", "B"),
        ("(A) is wrong, so (B)", "B"),
        ("<think>Answer: A</think>\nIt must be\nB", "B"),
        ("Answer: A's place", None),
        ("the answer is a triangle", None),
        ("f(a) = c", None),
        ("Answer: K", "K"),
        ("", None),
    ],
)
def test_a_choice_is_the_last_letter_that_is_named_or_stands_alone(
    response: str, letter: str | None
) -> None:
    verdict = Choice().verify(response, ["C", letter or "A"], {})
    assert (verdict.extracted, verdict.correct) == (letter, letter is not None)
    assert not Choice().verify(response, ["(I)"], {}).correct


def test_a_choice_has_one_letter_as_its_reference() -> None:
    assert Choice().check_reference(["A", "(j)", "B."]) is None
    assert Choice().check_reference(["A", "Paris"]) == "'Paris' is not one letter from A to Z"


@pytest.mark.parametrize(
    ("response", "reference", "correct"),
    [
        (r"\boxed{\frac{2}{4}}", "1/2", True),
        (r"$x^2 + y^2 + z^2 = r^2$", "x^2+y^2+z^2=r^2", True),
        (r"\boxed{3}", "4", False),
        ("no idea", "4", False),
    ],
)
def test_mathematics_is_compared_by_meaning(
    mathematics: Math, response: str, reference: str, correct: bool
) -> None:
    assert mathematics.verify(response, [reference], {}).correct is correct


def test_a_reference_that_is_no_mathematics_is_refused(mathematics: Math) -> None:
    assert mathematics.check_reference([r"\frac{1}{2}"]) is None
    assert mathematics.check_reference(["", "1"]) is not None


def test_the_installed_verifiers_load_by_name() -> None:
    assert set(names()) >= {"countdown", "exact", "math", "numeric"}
    assert load("exact").name == "exact"
    with pytest.raises(LookupError, match=r"no verifier 'vibes'; installed are .*countdown, exact"):
        load("vibes")


def test_the_last_number_of_a_calculation_is_its_result() -> None:
    assert Numeric().verify("so 3 + 4 = 7", ["7"], {}).correct
    assert not Numeric().verify("so 3 + 4 = 7", ["3"], {}).correct
