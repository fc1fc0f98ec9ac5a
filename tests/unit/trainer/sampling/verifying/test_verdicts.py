"""Verdicts on answers from public bug reports and data sets, and on generated answers."""

import json
from typing import Any

import pytest
from generated_answers import GENERATORS, Pair, pairs
from verdict_rates import CASES, rates, references

from tempo_trainer.sampling.verifiers import (
    Choice,
    Exact,
    JsonEqual,
    Math,
    Numeric,
    Regex,
    StringCheck,
    Verifier,
    Words,
)
from tempo_trainer.sampling.verifying.equal_text import equal_text

PAIRS = 1_000  # right ones, and as many wrong ones
VERIFIERS: dict[str, Verifier] = {
    verifier.name: verifier
    for verifier in (Math(), Numeric(), Choice(), Exact(), Words(), JsonEqual(), Regex())
}
# The first file holds the cases of bug reports; the second one answers of the same kinds.
FILES = (CASES, CASES.with_name("neighbours.jsonl"))


def cases(verifier: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for file in FILES for line in file.read_text().splitlines()]
    for line in lines:
        reference = line["reference"]
        line["reference"] = reference if isinstance(reference, list) else [reference]
    return [line for line in lines if line["verifier"] == verifier]


@pytest.mark.parametrize("name", ["math", "numeric", "choice", "exact", "words"])
def test_answers_from_bug_reports_and_answers_like_them_get_the_right_verdicts(name: str) -> None:
    def verdict(case: dict[str, Any]) -> bool:
        arguments = (case["response"], case["reference"], case["metadata"])
        return VERIFIERS[name].verify(*arguments).correct

    assert len(cases(name)) >= 28
    assert [case for case in cases(name) if verdict(case) is not case["correct"]] == []


@pytest.mark.parametrize("name", ["math", "numeric", "choice", "exact", "words"])
def test_no_wrong_answer_is_right_before_its_verifier_is_asked(name: str) -> None:
    wrong = [case for case in cases(name) if not case["correct"]]
    early = [equal_text(name, case["response"], case["reference"]) for case in wrong]
    assert early == [None] * len(wrong)


@pytest.mark.parametrize("name", GENERATORS)
def test_two_thousand_equal_forms_are_right_and_changed_ones_wrong(name: str) -> None:
    generated = list(pairs(name, PAIRS))
    assert len(generated) >= 2_000
    assert [pair for pair in generated if _is_correct(name, pair) is not pair.correct] == []


def _is_correct(name: str, pair: Pair) -> bool:
    early = equal_text(name, pair.response, [pair.reference])
    verdict = VERIFIERS[name].verify(pair.response, [pair.reference], pair.metadata)
    assert early is None or early.correct is verdict.correct
    return verdict.correct


def test_ten_rewritings_of_each_reference_are_judged_right_and_wrong_answers_wrong() -> None:
    counts = rates()
    assert counts.keys() == references().keys()
    right = sum(row[0] for row in counts.values())
    false_negatives = sum(row[1] for row in counts.values())
    faulty = sum(row[2] for row in counts.values())
    false_positives = sum(row[3] for row in counts.values())
    assert right >= 2_500
    assert false_negatives / right <= 0.001
    # The rest are answers that are right all the same: the letter of "C. 6-i" is the reference's.
    assert false_positives / faulty <= 0.01


@pytest.mark.parametrize("name", [name for name in VERIFIERS if name != "regex"])
def test_without_a_reference_the_answer_is_read_and_counts_as_incorrect(name: str) -> None:
    response = '{"a": 1}' if name == "json_equal" else "The answer is B."
    verdict = VERIFIERS[name].verify(response, [], {})
    assert not verdict.correct
    assert verdict.extracted is not None or verdict.reason == "no number"


def test_a_string_check_does_what_openai_s_grader_of_this_name_does() -> None:
    def is_correct(operation: str, response: str) -> bool:
        grader = {"type": "string_check", "operation": operation}
        verdict = StringCheck().verify(response, ["Paris"], {"grader": grader})
        assert verdict == StringCheck().verify(response, ["Paris"], {"operation": operation})
        return verdict.correct

    responses = ("Paris", "It is Paris.", "paris", r"\boxed{Paris}", "<think>Paris</think>Oslo", "")
    assert {
        operation: [is_correct(operation, one) for one in responses] for operation in OPERATIONS
    } == {
        "eq": [True, False, False, True, False, False],
        "ne": [False, True, True, False, True, False],
        "like": [True, True, False, True, False, False],
        "ilike": [True, True, True, True, False, False],
    }


OPERATIONS = ("eq", "ne", "like", "ilike")
