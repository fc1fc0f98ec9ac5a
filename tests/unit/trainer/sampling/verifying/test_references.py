"""A verifier refuses references that it could not compare, and faulty metadata."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_trainer.sampling.verifiers import (
    Choice,
    Exact,
    JsonEqual,
    Math,
    Numeric,
    ReasoningGym,
    Regex,
    StringCheck,
    Words,
    _check,
    load,
)


@pytest.mark.parametrize("value", ["5%", "0.05", -1, float("inf"), float("nan"), 1, 7, True, [0.1]])
def test_a_tolerance_that_is_no_number_from_0_to_below_1_is_refused(value: object) -> None:
    error = Numeric().check_question(["200"], {"tolerance": value})
    assert error == (
        f"metadata.tolerance is {value!r}; give a number from 0 to below 1, as 0.05 for 5%"
    )


@pytest.mark.parametrize(
    "metadata", [{}, {"tolerance": None}, {"tolerance": 0}, {"tolerance": 0.05}]
)
def test_a_usable_tolerance_is_accepted(metadata: dict[str, object]) -> None:
    assert Numeric().check_question(["200"], metadata) is None
    assert Numeric().check_question(["many"], metadata) == "no number in 'many'"


def test_an_unusable_tolerance_of_an_old_ledger_does_not_make_a_right_answer_wrong() -> None:
    for value in ("5%", None, -1):
        assert Numeric().verify("200", ["200"], {"tolerance": value}).correct
        assert not Numeric().verify("209", ["200"], {"tolerance": value}).correct


def test_the_reference_of_a_choice_is_a_letter_or_the_text_of_an_option() -> None:
    options = {"options": ["Lyon", "Paris", "Oslo"]}
    choice = Choice()
    assert choice.check_question(["B"], options) is None
    assert choice.check_question(["paris"], options) is None
    assert choice.check_question(["Rome"], options) == (
        "'Rome' is none of the 3 options, and no letter of one"
    )
    assert choice.check_question(["D"], options) is not None
    assert choice.verify("The answer is Paris.", ["B"], options).correct
    assert choice.verify("The answer is (B).", ["Paris"], options).correct
    assert not choice.verify("The answer is Oslo.", ["B"], options).correct
    assert choice.verify(r"\boxed{Paris}", ["B"], options).extracted == "B"


def test_options_may_be_a_list_letters_with_texts_or_two_lists() -> None:
    texts = ["Lyon", "Paris"]
    for value in (
        texts,
        {"A": "Lyon", "B": "Paris"},
        {"label": ["A", "B"], "text": texts},
    ):
        assert Choice().verify("Paris", ["B"], {"choices": value}).correct


def test_two_options_with_the_same_text_are_told_apart_by_their_letters_only() -> None:
    options = {"options": ["7", "7", "9"]}
    assert not Choice().verify("The answer is 7.", ["A"], options).correct
    assert Choice().verify("The answer is A.", ["A"], options).correct


def test_mathematics_refuses_empty_cut_off_and_long_texts() -> None:
    for text in ("", " ", r"\frac{1}{2", "--", "one " * 13):
        assert Math().check_reference(["1", text]) is not None, text


def test_mathematics_accepts_expressions_and_a_few_words() -> None:
    for text in ("7", r"\frac12", "Yes", "no solution", "May 5", r"\{1, 2\}", r"\lim_{x\to 0} x"):
        assert Math().check_reference([text]) is None, text


def test_a_worked_reference_is_read_as_its_final_answer() -> None:
    solution = "We add 3 and 4 to find the sum. Therefore the sum is 7."
    assert Math().check_reference([solution]) is None
    assert Math().verify(r"\boxed{7}", [solution], {}).correct


@pytest.mark.parametrize(("text", "fault"), [("[", "no regular expression"), ("a*", "an empty")])
def test_a_pattern_that_does_not_compile_or_matches_nothing_is_refused(
    text: str, fault: str
) -> None:
    assert fault in (Regex().check_reference([text]) or "")


def test_texts_and_json_are_refused_where_they_hold_no_answer() -> None:
    assert Exact().check_reference(["x", " "]) is not None
    assert Words().check_reference(["x", " "]) is not None
    assert Words().check_reference(["C++"]) is None
    assert JsonEqual().check_reference(['{"a": 1}', "{a: 1}"]) == "'{a: 1}' is not JSON"


def test_a_task_of_reasoning_gym_is_named_after_a_colon_and_needs_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ReasoningGym().check_reference(["1"]) == "name the task, as in reasoning_gym:chain_sum"
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    error = ReasoningGym("chain_sum").check_reference(["1"])
    assert error == "install vllm-tempo[reasoning-gym] for the verifier reasoning_gym"


def test_the_full_score_of_a_task_of_reasoning_gym_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(answer: str, entry: dict[str, Any]) -> float:
        return 1.0 if answer == entry["answer"] and entry["metadata"] == {"n": 1} else 0.5

    package = SimpleNamespace(get_score_answer_fn={"chain_sum": score}.__getitem__)
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    verifier = ReasoningGym("chain_sum")
    assert verifier.check_reference(["7"]) is None
    assert verifier.verify(r"\boxed{7}", ["7"], {"n": 1}).correct
    assert not verifier.verify(r"\boxed{8}", ["7"], {"n": 1}).correct


@pytest.mark.parametrize("metadata", [{"operation": "eval"}, {"grader": {"operation": "is"}}])
def test_an_unknown_operation_of_a_string_check_is_refused(metadata: dict[str, Any]) -> None:
    error = StringCheck().check_question(["Paris"], metadata)
    assert error is not None
    assert error.endswith("give eq, ne, like or ilike")
    assert StringCheck().check_question(["Paris"], {}) is None


def test_a_check_of_a_line_looks_at_its_metadata_and_names_unknown_verifiers() -> None:
    line = {"line": 3, "verifier": "numeric", "reference": ["7"], "metadata": {"tolerance": "5%"}}
    assert "metadata.tolerance is '5%'" in str(_check(line, load)["error"])
    assert _check(line | {"metadata": {}}, load) == {"line": 3, "error": None}
    assert "no verifier 'nope'" in str(_check(line | {"verifier": "nope"}, load)["error"])
