"""Questions that cannot show a gain end in a refusal with its reason and remedy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gates import QUESTIONS, ScriptedDraw, exact, facts, spread

from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.versions.answers import Sides
from tempo_trainer.versions.gate import LEVEL, Decision, Look, decide, unproven

K = 16
BETTER = ScriptedDraw(base=0.4, candidate=spread(0.6))


def refused(draw: Any, **changed: Any) -> Decision:
    decision = decide(draw, facts(**changed), k=K)
    assert not decision.promote
    return decision


def test_the_better_candidate_of_these_tests_is_promoted_without_trouble() -> None:
    assert decide(BETTER, facts(), k=K).promote


def test_all_answers_wrong_ask_for_easier_questions_and_a_look_at_the_verifier() -> None:
    decision = refused(ScriptedDraw(base=0.0, serving=0.0, candidate=0.0))
    assert "no held-out question is answered right (0% of the responses are cut)" in decision.reason
    assert "upload easier questions, and check that their verifier reads" in decision.reason


def test_all_answers_wrong_because_they_are_cut_ask_for_a_higher_token_limit() -> None:
    wrong = ScriptedDraw(base=0.0, candidate=0.0)

    def draw(decoding: Decoding, start: int, n: int) -> Sides:
        sides = wrong(decoding, start, n)
        cut = replace(sides.candidate, truncated=np.ones((QUESTIONS, n)))
        return replace(sides, candidate=cut)

    remedy = "(100% of the responses are cut); raise TEMPO_MAX_RESPONSE_TOKENS"
    assert remedy in refused(draw).reason
    users = replace(PLAIN, max_tokens=24)
    reason = refused(draw, decoding=users).reason
    assert f"{remedy}, or let users ask for more than 24 tokens" in reason


@pytest.mark.parametrize("candidate", [1.0, spread(0.9, by=0.1)])
def test_a_base_that_is_always_right_asks_for_harder_questions(candidate: Any) -> None:
    reason = refused(ScriptedDraw(base=1.0, candidate=candidate)).reason
    assert reason.startswith(
        "the base answers all 64 held-out questions right, so that no gain can show;"
        " upload harder questions"
    )


def test_a_serving_version_that_is_always_right_stays() -> None:
    reason = refused(ScriptedDraw(base=0.4, serving=1.0, candidate=1.0)).reason
    assert reason == "no gain: +0.0 points over the serving version"


@pytest.mark.parametrize(("others", "promotes"), [(7, True), (6, False)])
def test_one_text_for_nine_right_answers_in_ten_is_refused(others: int, promotes: bool) -> None:
    def draw(decoding: Decoding, start: int, n: int) -> Sides:
        sides = BETTER(decoding, start, n)
        texts = [["Yes"] * n] * (QUESTIONS - others) + [[str(q)] * n for q in range(others)]
        everywhere = np.full(QUESTIONS, 0.75)
        everywhere[::2] = 0.5
        candidate = replace(exact(everywhere, n), texts=texts)
        return replace(sides, candidate=candidate)

    decision = decide(draw, facts(), k=K)
    assert decision.promote is promotes
    if not promotes:
        assert "right answers are 'Yes': a model that always says this would be" in decision.reason
        assert decision.reason.endswith("upload questions with other answers")
        assert not decision.by_hand


def test_the_same_gain_on_every_question_is_refused_for_its_unknown_error() -> None:
    reason = refused(ScriptedDraw(base=0.25, candidate=0.5)).reason
    assert reason == (
        "the gain is the same on every question (+25.0 points over the base), so that its standard"
        " error is unknown; upload more questions of other kinds"
    )


def test_an_error_of_rounding_is_no_standard_error() -> None:
    base = np.arange(QUESTIONS) % 3 / 10  # 0.1 + 0.2 is not 0.3: the differences differ in a bit
    sides = replace(BETTER(PLAIN, 0, 10), base=exact(base, 10), candidate=exact(base + 0.1, 10))
    look = Look(replace(sides, base_serves=True), LEVEL)
    assert 0 < look.gains[0].standard_error < 1e-12
    assert "the same on every question" in unproven(look)


def test_a_candidate_that_answers_exactly_as_the_base_has_no_gain() -> None:
    decision = refused(ScriptedDraw(base=0.4, candidate=0.4))
    assert decision.reason == "no gain: +0.0 points over the base"
    assert not decision.is_worse


GAP = "too few are held out; upload more"


@pytest.mark.parametrize("candidate", [spread(0.6), 0.4])
def test_a_gap_leaves_the_version_to_an_operator_and_the_test_does_not_count(
    candidate: Any,
) -> None:
    decision = refused(ScriptedDraw(base=0.4, candidate=candidate), gaps=[GAP])
    assert decision.reason.startswith(GAP)
    assert (decision.by_hand, decision.counts) == (True, False)


def test_a_gap_leaves_a_version_with_an_objection_to_nobody() -> None:
    draw = ScriptedDraw(base=0.4, candidate=spread(0.6), greedy={"base": 1, "candidate": 0})
    assert not refused(draw, gaps=[GAP]).by_hand


def test_a_test_without_a_gap_counts_whatever_it_decides() -> None:
    assert decide(BETTER, facts(), k=K).counts
    assert refused(ScriptedDraw(base=0.4, candidate=0.4)).counts


def test_one_held_out_question_proves_nothing() -> None:
    one = ScriptedDraw(base=0.25, candidate=1.0, questions=1)
    decision = decide(one, facts(1), k=K)
    assert not decision.promote
    assert "standard error is unknown; upload more questions" in decision.reason
