"""The gate promotes a gain, and names the bound that a candidate fails."""

from typing import Any

import numpy as np

from tempo_trainer.settings import TrainerSettings
from tempo_trainer.versions.gate import Answers, GateDecision, gate


def signs(correct: Any) -> np.ndarray:
    return np.where(np.array(correct) > 0, 1.0, -1.0)


def answers(correct: np.ndarray, distinct: int = 8) -> Answers:
    n = correct.shape[1]
    return Answers(signs(correct), [[str(i % distinct) for i in range(n)] for _ in correct])


def draws(rate: float, *, questions: int = 200, n: int = 8, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((questions, n)) < rate).astype(float)


def decide(
    base: Answers, serving: Answers, candidate: Answers, *, base_serves: bool = False
) -> GateDecision:
    return gate(base, serving, candidate, base_serves=base_serves, settings=TrainerSettings())


def test_a_clear_gain_is_promoted() -> None:
    base, better = answers(draws(0.4)), answers(draws(0.6, seed=1))
    decision = decide(base, base, better)
    assert decision.promote
    assert decision.questions == 200
    assert decision.k == 8
    assert decision.against_base.low > 0
    assert 0 < decision.detectable_difference < 0.1


def test_no_gain_is_rejected_with_the_bound_that_failed() -> None:
    base, same = answers(draws(0.4)), answers(draws(0.4, seed=1))
    decision = decide(base, base, same)
    assert not decision.promote
    assert decision.reason.startswith("avg@k against the base: ")


def test_the_first_promotion_needs_no_gain_but_no_loss() -> None:
    base = answers(draws(0.4))
    assert decide(base, base, base, base_serves=True).promote
    assert not decide(base, base, base).promote
    assert not decide(base, base, answers(draws(0.3, seed=1)), base_serves=True).promote


def test_a_loss_against_the_serving_adapter_is_rejected() -> None:
    base, serving = answers(draws(0.3)), answers(draws(0.7, seed=1))
    decision = decide(base, serving, answers(draws(0.5, seed=2)))
    assert not decision.promote
    assert "the serving adapter" in decision.reason
    assert "the base" not in decision.reason


def test_collapsed_diversity_is_rejected() -> None:
    base, better = answers(draws(0.4)), draws(0.6, seed=1)
    assert "entropy" in decide(base, base, answers(better, distinct=1)).reason
    # Half of the questions always right, half never: avg@8 holds, pass@8 is lost.
    split = np.repeat((np.arange(200) % 2)[:, None], 8, axis=1).astype(float)
    assert "pass@k" in decide(base, base, answers(split)).reason


def test_a_base_that_always_says_the_same_has_no_entropy_to_lose() -> None:
    base, better = answers(draws(0.4), distinct=1), answers(draws(0.6, seed=1), distinct=1)
    assert decide(base, base, better).promote
