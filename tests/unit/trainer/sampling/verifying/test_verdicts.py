"""Verdicts on answers from public bug reports and data sets, and on generated answers."""

import json

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
    Verifier,
    Words,
)
from tempo_trainer.sampling.verifying.equal_text import equal_text

PAIRS = 1_100  # right ones, and as many wrong ones
VERIFIERS: dict[str, Verifier] = {
    verifier.name: verifier
    for verifier in (Math(), Numeric(), Choice(), Exact(), Words(), JsonEqual(), Regex())
}
CASE_LINES = CASES.read_text().splitlines()


@pytest.mark.parametrize("line", CASE_LINES, ids=range(len(CASE_LINES)))
def test_an_answer_from_a_bug_report_gets_the_right_verdict(line: str) -> None:
    case = json.loads(line)
    reference = case["reference"]
    accepted = reference if isinstance(reference, list) else [reference]
    verifier = VERIFIERS[case["verifier"]]
    verdict = verifier.verify(case["response"], accepted, case["metadata"])
    assert verdict.correct is case["correct"], case


@pytest.mark.parametrize("line", CASE_LINES, ids=range(len(CASE_LINES)))
def test_no_wrong_answer_is_right_before_its_verifier_is_asked(line: str) -> None:
    case = json.loads(line)
    reference = case["reference"]
    accepted = reference if isinstance(reference, list) else [reference]
    if not case["correct"]:
        assert equal_text(case["verifier"], case["response"], accepted) is None


@pytest.mark.parametrize("name", GENERATORS)
def test_equal_forms_are_right_and_changed_ones_are_wrong(name: str) -> None:
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
