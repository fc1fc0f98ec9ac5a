"""A proven gain is refused if the candidate is worse in another respect."""

from typing import Any

import numpy as np
import pytest
from gates import QUESTIONS, ScriptedDraw, facts, spread

from tempo_storage.decoding import GREEDY, PLAIN, Decoding
from tempo_trainer.versions.answers import Sides
from tempo_trainer.versions.gate import Decision, decide

K = 16
USERS = Decoding(temperature=0.6)
NUMBERS = np.arange(QUESTIONS)


def better(**changed: Any) -> ScriptedDraw:
    """Return a candidate that gains 20 points over the base, which serves."""
    return ScriptedDraw(**({"base": 0.4, "candidate": spread(0.6)} | changed))


def test_the_same_candidate_without_a_loss_is_promoted() -> None:
    assert decide(better(), facts(), k=K).promote


# Greedy answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "promotes"), [(1, True), (2, False)])
def test_more_than_three_points_fewer_greedy_answers_are_a_veto(lost: int, promotes: bool) -> None:
    draw = better(greedy={"base": 1.0, "candidate": lost <= NUMBERS})  # 1.6 and 3.1 points
    decision = decide(draw, facts(), k=K)
    assert decision.promote is promotes
    if not promotes:
        assert decision.reason == (
            "greedy answers lose 3.1 points against the serving version, more than 3.0 points"
        )
        assert not decision.by_hand


def test_greedy_answers_are_compared_with_the_serving_version_and_not_with_the_base() -> None:
    greedy = {"base": 1.0, "serving": 0.0, "candidate": 0.0}
    draw = better(serving=0.4, greedy=greedy)
    assert decide(draw, facts(), k=K).promote


# pass@8 -------------------------------------------------------------------------------------------


def narrowed(lost: int) -> ScriptedDraw:
    """Return a candidate that is always right, except on some questions, where it never is."""
    return better(candidate=(lost <= NUMBERS).astype(float), greedy={"base": 0, "candidate": 0})


@pytest.mark.parametrize(("lost", "promotes"), [(3, True), (9, False)])
def test_a_candidate_that_gives_up_hard_questions_is_refused_for_pass_at_8(
    lost: int, promotes: bool
) -> None:
    decision = decide(narrowed(lost), facts(), k=K)
    assert decision.looks[0].gains[0].t > decision.looks[0].needed
    assert decision.promote is promotes
    if not promotes:
        assert decision.reason.startswith("pass@8 may lose ")
        assert "against the base, and fewer than 12.0 points are allowed" in decision.reason


def test_pass_at_8_is_compared_with_the_base_and_not_with_the_serving_version() -> None:
    draw = narrowed(9)
    draw.serving = draw.candidate - 0.2 * (NUMBERS >= 30)  # it gave the same questions up before
    draw.base = 0.25
    draw.greedy = {"base": 0, "serving": 0, "candidate": 0}
    assert decide(draw, facts(), k=K).reason.startswith("pass@8 may lose ")


@pytest.mark.parametrize("loses_at", [USERS, PLAIN])
def test_pass_at_8_is_that_of_the_users_own_decoding(loses_at: Decoding) -> None:
    narrow = narrowed(9)
    wide = better(greedy={"base": 0, "candidate": 0})

    def draw(decoding: Decoding, start: int, n: int) -> Sides:
        return (narrow if decoding == loses_at else wide)(decoding, start, n)

    assert decide(draw, facts(decoding=USERS), k=K).promote is (loses_at == PLAIN)


def test_pass_at_8_of_greedy_users_is_that_of_plain_answers() -> None:
    greedy = {"base": NUMBERS % 4 == 0, "candidate": NUMBERS % 4 <= 1}
    draw = ScriptedDraw(base=0.4, candidate=0.0, greedy=greedy)
    decision = decide(draw, facts(decoding=GREEDY), k=K)
    assert decision.reason.startswith("pass@8 may lose ")


def test_answers_that_are_all_the_same_because_they_are_right_are_no_reason_to_refuse() -> None:
    draw = ScriptedDraw(base=spread(0.85, by=0.1), candidate=1.0)
    decision = decide(draw, facts(), k=K)
    assert decision.users.candidate.entropy == 0 < decision.users.base.entropy
    assert decision.promote


# Groups -------------------------------------------------------------------------------------------


def with_a_group(members: int, loss: float) -> Decision:
    """Return the decision on a candidate that loses in one group and gains in the others."""
    is_member = members > NUMBERS
    lost = np.where(NUMBERS % 2, loss - 0.05, loss + 0.05)
    gained = np.where(NUMBERS % 2, 0.35, 0.45)
    draw = better(
        base=0.5, candidate=0.5 + np.where(is_member, -lost, gained), greedy={"candidate": 1}
    )
    groups = [
        "fractions" if one else ("others" if i % 2 else None) for i, one in enumerate(is_member)
    ]
    return decide(draw, facts(groups=groups), k=32)


@pytest.mark.parametrize(
    ("members", "loss", "promotes"), [(16, 0.25, False), (15, 0.25, True), (16, 0.05, True)]
)
def test_a_group_of_16_questions_that_certainly_loses_ten_points_vetoes(
    members: int, loss: float, promotes: bool
) -> None:
    decision = with_a_group(members, loss)
    assert decision.looks[0].gains[0].t > decision.looks[0].needed
    assert decision.promote is promotes
    if not promotes:
        assert decision.reason.startswith("the group 'fractions' of 16 questions loses at least ")
        assert decision.reason.endswith(" points against the serving version")
        assert not decision.by_hand


def test_questions_without_a_group_are_no_group() -> None:
    lost = better(candidate=np.where(NUMBERS < 16, 0.1, 0.9), greedy={"candidate": 1})
    groups = [None if number < 16 else "others" for number in NUMBERS]
    assert decide(lost, facts(groups=groups), k=K).promote


def test_a_group_is_compared_with_the_serving_version_and_not_with_the_base() -> None:
    is_member = NUMBERS < 16
    draw = better(
        base=0.25,
        serving=np.where(is_member, 0.9, 0.3),
        candidate=np.where(is_member, 0.5, spread(0.9, by=0.1)),
        greedy={"serving": 0},
    )
    groups = ["fractions" if one else None for one in is_member]
    assert decide(draw, facts(groups=groups), k=K).reason.startswith("the group 'fractions'")


def test_all_objections_are_named_at_once() -> None:
    draw = narrowed(9)
    draw.greedy = {"base": 1, "candidate": 0}
    reason = decide(draw, facts(), k=K).reason
    assert reason.startswith("greedy answers lose 100.0 points against the serving version")
    assert "; pass@8 may lose " in reason
