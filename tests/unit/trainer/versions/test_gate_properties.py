"""Rules that hold for the gate's decisions whatever the answers are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gates import ScriptedDraw, facts
from scipy import stats

from tempo_storage.decoding import Decoding
from tempo_trainer.versions import gate
from tempo_trainer.versions.answers import Answers, Sides
from tempo_trainer.versions.gate import Decision, decide

K = 8
SEEDS = range(150)
SIDES = ("base", "serving", "candidate")
GROUPS = ("a", "b", None)


def scripted(seed: int) -> tuple[ScriptedDraw, gate.Facts]:
    """Return sides of random accuracy, often with a gain, and random groups of questions."""
    rng = np.random.default_rng(seed)
    questions = int(rng.integers(2, 90))
    base = rng.beta(1.1, 2, questions)
    logits = np.log(base / (1 - base))

    def changed(shift: float) -> Any:
        return 1 / (1 + np.exp(-(logits + shift + rng.normal(0, 0.6, questions))))

    draw = ScriptedDraw(
        base=base,
        serving=changed(rng.uniform(0, 0.6)) if rng.random() < 0.5 else None,
        candidate=changed(rng.uniform(-0.3, 2.0)),
        questions=questions,
        rng=rng,
    )
    groups = [GROUPS[i] for i in rng.integers(0, 3, questions)]
    decoding = Decoding(temperature=float(rng.choice([0.0, 0.6, 1.0])))
    return draw, facts(questions, groups=groups, decoding=decoding)


def decision_on(seed: int) -> Decision:
    draw, test_facts = scripted(seed)
    return decide(draw, test_facts, k=K)


def test_both_decisions_are_among_the_random_cases() -> None:
    decisions = [decision_on(seed) for seed in SEEDS]
    assert 20 < sum(decision.promote for decision in decisions) < len(SEEDS) - 20
    assert {len(decision.looks) for decision in decisions} == {1, 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_promotion_beats_every_rival_and_has_no_objection(seed: int) -> None:
    decision = decision_on(seed)
    users = decision.users
    rivals = [users.serving, users.base]
    gains = [users.candidate.accuracy - rival.accuracy for rival in rivals]
    assert decision.reason
    if decision.promote:
        assert min(gain.mean() for gain in gains) > 0
        assert not decision.by_hand
        assert not decision.is_worse
        loss = (decision.greedy.serving.accuracy - decision.greedy.candidate.accuracy).mean()
        assert loss <= gate.GREEDY_LOSS


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gain_is_proven_where_the_paired_t_test_of_scipy_says_so(seed: int) -> None:
    look = decision_on(seed).looks[-1]
    candidate = look.sides.candidate.accuracy
    levels = [
        stats.ttest_rel(candidate, rival.accuracy, alternative="greater").pvalue
        for rival in look.sides.rivals().values()
    ]
    is_proven = bool(max(levels) < look.level)
    assert (gate.unproven(look) == "") is is_proven


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_the_order_of_the_questions_decides_nothing(seed: int) -> None:
    draw, test_facts = scripted(seed)
    order = np.random.default_rng(seed).permutation(draw.questions)

    def permuted(decoding: Decoding, start: int, n: int) -> Sides:
        sides = draw(decoding, start, n)
        return replace(sides, **{side: reordered(getattr(sides, side), order) for side in SIDES})

    own = decide(draw, test_facts, k=K)
    draw, test_facts = scripted(seed)  # the same random answers again
    groups = [test_facts.groups[i] for i in order]
    other = decide(permuted, replace(test_facts, groups=groups), k=K)
    assert (other.promote, other.by_hand, other.is_worse) == (
        own.promote,
        own.by_hand,
        own.is_worse,
    )
    assert sorted(other.reason.split("; ")) == sorted(own.reason.split("; "))


def reordered(answers: Answers, order: Any) -> Answers:
    return Answers(
        answers.outcomes[order],
        [answers.texts[i] for i in order],
        answers.lengths[order],
        answers.truncated[order],
    )


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_a_candidate_that_is_the_serving_version_is_never_promoted(seed: int) -> None:
    draw, test_facts = scripted(seed)

    def same(decoding: Decoding, start: int, n: int) -> Sides:
        sides = draw(decoding, start, n)
        return replace(sides, candidate=sides.serving)

    assert not decide(same, test_facts, k=K).promote


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_questions_on_which_all_sides_are_alike_turn_no_loss_into_a_gain(seed: int) -> None:
    draw, test_facts = scripted(seed)

    def longer(decoding: Decoding, start: int, n: int) -> Sides:
        sides = draw(decoding, start, n)
        return replace(sides, **{side: doubled(getattr(sides, side)) for side in SIDES})

    questions = draw.questions
    more = facts(2 * questions, decoding=test_facts.decoding)
    decision = decide(longer, more, k=K)
    users = decision.users
    gains = [
        (users.candidate.accuracy - rival.accuracy)[:questions].mean()
        for rival in (users.serving, users.base)
    ]
    assert min(gains) > 0 or not decision.promote


def doubled(answers: Answers) -> Answers:
    """Return the answers, and those to as many questions that everybody answers half right."""
    rows, n = answers.outcomes.shape
    half = np.tile(np.where(np.arange(n) % 2, 1.0, -1.0), (rows, 1))
    same = Answers(half, [["a"] * n] * rows, np.ones((rows, n)), np.zeros((rows, n)))
    return Answers.joined([answers, same])
