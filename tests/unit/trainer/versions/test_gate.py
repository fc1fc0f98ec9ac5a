"""A gain is promoted if it is proven at the users' decoding, in one look or in two."""

from dataclasses import replace

import numpy as np
import pytest
from gates import QUESTIONS, ScriptedDraw, facts, spread

from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.versions import gate
from tempo_trainer.versions.gate import decide

K = 16
BASE = 6 / K
USERS = Decoding(temperature=0.6, top_p=0.95, top_k=20)
FIRST = (PLAIN, 0, K)
SECOND = (PLAIN, K, 4 * K)
GREEDY_ONCE = (GREEDY, 0, 1)


def scripted(gain: float, *, by: float = 0.2) -> ScriptedDraw:
    """Return a candidate with a mean gain over the base, which serves."""
    return ScriptedDraw(base=BASE, candidate=spread(BASE + gain, by=by))


def test_a_clear_gain_is_promoted_after_one_look() -> None:
    draw = scripted(0.2)
    decision = decide(draw, facts(), k=K)
    assert decision.promote
    assert (decision.by_hand, decision.is_worse) == (False, False)
    assert draw.requests == [GREEDY_ONCE, FIRST]
    [look] = decision.looks
    assert look.level == gate.FIRST_LEVEL
    assert look.gains[0].t > look.needed
    assert decision.reason == (
        "proven: +19.9 points [+17.0, +22.9] over the base on 64 held-out questions,"
        " 13.5 standard errors where 3.9 are needed"
    )


@pytest.mark.parametrize(("gain", "promotes"), [(0.055, True), (0.03, False)])
def test_a_gain_that_the_first_look_leaves_open_is_decided_by_five_times_the_responses(
    gain: float, promotes: bool
) -> None:
    draw = scripted(gain)
    decision = decide(draw, facts(), k=K)
    assert draw.requests == [GREEDY_ONCE, FIRST, SECOND]
    first, second = decision.looks
    assert gate.FUTILE <= first.gains[0].t <= first.needed
    assert second.level == gate.SECOND_LEVEL
    assert second.sides.candidate.outcomes.shape == (QUESTIONS, 5 * K)
    assert decision.users is second.sides
    assert decision.promote is promotes
    if not promotes:
        assert decision.reason.startswith("the gain is not proven: +")
        assert "standard errors, 3.3 are needed; " in decision.reason


@pytest.mark.parametrize("gain", [0.01, -0.1])
def test_a_second_look_is_not_drawn_for_a_candidate_without_hope(gain: float) -> None:
    draw = scripted(gain)
    assert not decide(draw, facts(), k=K).promote
    assert draw.requests == [GREEDY_ONCE, FIRST]


def test_a_candidate_below_the_base_is_refused_as_certainly_worse() -> None:
    decision = decide(scripted(-0.1), facts(), k=K)
    assert not decision.promote
    assert decision.is_worse
    assert decision.reason.startswith("no gain: -")


@pytest.mark.parametrize(
    ("base", "serving", "rival"),
    [(0.3, 0.6, "the serving version"), (0.6, 0.3, "the base")],
)
def test_a_gain_over_one_rival_alone_is_refused_with_the_name_of_the_other(
    base: float, serving: float, rival: str
) -> None:
    draw = ScriptedDraw(base=base, serving=serving, candidate=spread(0.6), greedy={"serving": 0})
    decision = decide(draw, facts(), k=K)
    assert not decision.promote
    assert f"over {rival}" in decision.reason
    assert decision.looks[0].gains[0].rival == rival


def test_a_gain_over_both_rivals_is_promoted_and_both_are_reported() -> None:
    draw = ScriptedDraw(base=0.3, serving=0.4, candidate=spread(0.7))
    decision = decide(draw, facts(), k=K)
    assert decision.promote
    assert [gain.rival for gain in decision.looks[0].gains] == ["the serving version", "the base"]
    assert "over the serving version" in decision.reason
    assert "over the base" in decision.reason


def test_the_users_decoding_decides_and_the_plain_one_is_drawn_for_the_report() -> None:
    draw = scripted(0.2)
    decision = decide(draw, facts(decoding=USERS), k=K)
    assert draw.requests == [GREEDY_ONCE, (USERS, 0, K), FIRST]
    assert decision.promote
    assert decision.plain.candidate.outcomes.shape == (QUESTIONS, K)


def test_the_users_limit_of_tokens_holds_for_all_answers() -> None:
    draw = scripted(0.2)
    limited = replace(USERS, max_tokens=64)
    decide(draw, facts(decoding=limited), k=K)
    assert [decoding.max_tokens for decoding, *_ in draw.requests] == [64, 64, 64]
    draw = scripted(0.2)
    decide(draw, facts(decoding=replace(PLAIN, max_tokens=64)), k=K)
    assert len(draw.requests) == 2  # the users' answers are the plain ones


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(temperature=0.7, top_k=1)])
def test_greedy_users_are_judged_by_one_greedy_answer_at_the_level_of_a_whole_test(
    decoding: Decoding,
) -> None:
    some_right = np.arange(QUESTIONS) % 4 == 0
    more_right = np.arange(QUESTIONS) % 4 <= 1
    draw = ScriptedDraw(0.4, 0.4, greedy={"base": some_right, "candidate": more_right})
    decision = decide(draw, facts(decoding=decoding), k=K)
    assert draw.requests == [GREEDY_ONCE, FIRST]
    [look] = decision.looks
    assert look.level == gate.LEVEL
    assert look.needed == pytest.approx(3.23, abs=0.01)
    assert look.sides.candidate.outcomes.shape == (QUESTIONS, 1)
    assert decision.promote


def test_greedy_users_get_no_candidate_that_is_better_at_temperature_one_alone() -> None:
    draw = ScriptedDraw(0.4, spread(0.7), greedy={"base": 1, "candidate": 1})
    draw.greedy = {"base": np.arange(QUESTIONS) % 2, "candidate": np.arange(QUESTIONS) % 2}
    decision = decide(draw, facts(decoding=GREEDY), k=K)
    assert not decision.promote
    assert decision.reason == "no gain: +0.0 points over the base"


def test_all_tests_on_one_set_of_questions_pass_by_chance_once_in_twenty_at_most() -> None:
    assert pytest.approx(0.05) == gate.MAX_TESTS * (gate.FIRST_LEVEL + gate.SECOND_LEVEL)
    assert pytest.approx(gate.FIRST_LEVEL + gate.SECOND_LEVEL) == gate.LEVEL


def test_after_refusals_the_next_test_waits_1_2_4_8_and_at_most_16_rounds() -> None:
    waits = [gate.wait_rounds(refusals) for refusals in range(9)]
    assert waits == [1, 1, 2, 4, 8, 16, 16, 16, 16]
