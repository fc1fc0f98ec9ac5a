"""Rewards and advantages: golden vectors of the specification, and the theorems that they obey."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from vectors import CLIP, GOLDEN, close, policy_gradient, some_rows, tensor

from tempo_trainer.algorithm import objective

NO_LABELS = torch.zeros(3).bool()
NO_OUTCOMES = torch.full((3,), math.nan)


def test_a_value_is_read_from_the_state_before_its_token() -> None:
    case = GOLDEN["G0_index"]
    positions = objective.positions(torch.tensor([case["P"]]), torch.tensor([case["L"]]))
    assert positions.tolist() == [case["positions"]]
    mixed = objective.positions(torch.tensor([3, 1]), torch.tensor([2, 4]))
    assert mixed.tolist() == [[2, 3, 3, 3], [0, 1, 2, 3]]


def test_advantages_agree_with_the_reference_code() -> None:
    case = GOLDEN["G1_em_token"]
    values = tensor(case["values"])
    mask = tensor(case["mask"])
    labeled = torch.tensor(case["labeled"]).bool()
    outcome = torch.where(labeled, tensor(case["reward"]), math.nan)
    reward = objective.terminal_reward(outcome, labeled, values, mask)
    close(reward, case["terminal"])
    raw = objective.raw_advantages(reward, values, mask)
    close(raw, case["raw"])
    close(torch.stack(objective.moments(raw, mask)), [case["mean"], case["var_unbiased"]])
    close(objective.whiten(raw, mask), case["adv"])


def test_an_unlabeled_responses_last_token_has_advantage_exactly_0() -> None:
    values, _, mask = some_rows()
    reward = objective.terminal_reward(NO_OUTCOMES, NO_LABELS, values, mask)
    raw = objective.raw_advantages(reward, values, mask)
    assert objective.last_values(raw, mask).tolist() == [0.0, 0.0, 0.0]
    assert raw.abs().sum() > 0


def test_the_control_experiment_flips_only_unlabeled_rewards() -> None:
    values, _, mask = some_rows()
    labeled = torch.tensor([True, False, False])
    outcome = tensor([1, math.nan, math.nan])
    plain = objective.terminal_reward(outcome, labeled, values, mask)
    flipped = objective.terminal_reward(outcome, labeled, values, mask, sign=-1)
    assert torch.equal(flipped, plain * tensor([1, -1, -1]))


def test_whitening_uses_the_unbiased_variance() -> None:
    case = GOLDEN["G2_whiten"]
    close(objective.whiten(tensor([case["x"]]), torch.ones(1, 4)), [case["out"]])


def test_the_floor_keeps_noise_small() -> None:
    case = GOLDEN["G15_whiten_noise"]
    mask = torch.ones(1, 2)
    close(objective.whiten(tensor([case["raw"]]), mask), [case["adv"]])
    close(objective.whiten(tensor([case["raw2"]]), mask), [case["adv2"]])
    close(objective.whiten(tensor([case["raw"]]), mask, floor=0.05), [case["with_floor_0.05"]])


def test_whitened_advantages_have_mean_0_and_deviation_1_over_sampled_tokens() -> None:
    _, raw, mask = some_rows()
    whitened = objective.whiten(raw, mask)
    mean, variance = objective.moments(whitened, mask)
    close(torch.stack([mean, variance]), [0.0, 1.0])
    assert (whitened[mask == 0] == 0).all()


@pytest.mark.parametrize("junk", [9.0, -1e6])
def test_padding_changes_nothing(junk: float) -> None:
    logprobs, a, mask = some_rows()
    outcome = tensor([1, -1, 1])
    labeled = torch.tensor([True, True, False])

    def everything(x: Tensor, a: Tensor) -> list[Tensor]:
        reward = objective.terminal_reward(outcome, labeled, x, mask)
        raw = objective.raw_advantages(reward, x, mask)
        lp = x.clone().requires_grad_()
        ones = torch.ones_like(mask)
        loss = objective.policy_loss(lp, x, a, mask, ones, **CLIP, denominator=3)
        loss = loss + objective.critic_loss(lp, outcome, mask, labeled, denominator=2)
        gradient = torch.autograd.grad(loss, lp)[0]
        return [reward, objective.whiten(raw, mask), loss.detach(), gradient]

    dirty = torch.where(mask > 0, logprobs, junk)
    dirty_a = torch.where(mask > 0, a, junk)
    for clean, other in zip(everything(logprobs, a), everything(dirty, dirty_a), strict=True):
        torch.testing.assert_close(clean, other)


def test_a_critic_on_another_scale_gives_unlabeled_rows_the_same_advantages() -> None:
    values, _, mask = some_rows()

    def advantages(values: Tensor) -> Tensor:
        reward = objective.terminal_reward(NO_OUTCOMES, NO_LABELS, values, mask)
        return objective.whiten(objective.raw_advantages(reward, values, mask), mask)

    scaled = advantages(0.5 * values - 3)
    torch.testing.assert_close(scaled, advantages(values), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(advantages(-values), -advantages(values))


def test_group_advantages_agree_with_the_reference_code() -> None:
    case = GOLDEN["G3_em_outcome"]
    group = torch.tensor([ord(name) for name in case["group"]])
    outcome = tensor([math.nan if r is None else r for r in case["reward"]])
    values = tensor(case["last_values"])[:, None]
    labeled = torch.tensor(case["labeled"]).bool()
    score = objective.terminal_reward(outcome, labeled, values, torch.ones(8, 1)).clamp(-1, 1)
    close(score, case["score"])
    close(objective.group_advantages(score, group), case["adv"])


def test_votes_become_advantages_like_scores() -> None:
    case = GOLDEN["G11_votes"]
    group = torch.zeros(8).long()
    majority = objective.group_advantages(tensor(case["ttrl"]), group)
    close(majority, [case["ttrl_adv"] * (1 if won else -1) for won in case["ttrl"]])
    expected = [case["empo_adv"].get(a, case["empo_adv"]["other"]) for a in case["answers"]]
    close(objective.group_advantages(tensor(case["empo"]), group), expected)


def test_group_advantages_depend_only_on_order_and_spacing_within_a_group() -> None:
    score = torch.randn(8)
    group = torch.tensor([0, 1, 0, 1, 1, 0, 1, 2])
    a = objective.group_advantages(score, group)
    for number in (0, 1):
        close(torch.stack([a[group == number].mean(), a[group == number].std()]), [0, 1])
    moved = torch.where(group == 1, 3 * score + 5, score)
    torch.testing.assert_close(objective.group_advantages(moved, group), a)
    assert a[7] == 0  # alone in its group


@pytest.mark.parametrize("score", [0.3, 1.0, -0.7])
def test_a_group_of_equal_scores_has_no_advantage(score: float) -> None:
    a = objective.group_advantages(torch.full((7,), score), torch.zeros(7).long())
    close(a, [0.0] * 7)


def test_three_tokens_by_hand() -> None:
    # V = -0.4, 0.0, 0.8 and no reference: R = 0.8, raw = 1.2, 0.8, 0.0; μ = 2/3,
    # σ² = ((8/15)² + (2/15)² + (2/3)²) / 2 = 0.373333, σ = 0.611010
    # Â = 0.872872, 0.218218, -1.091089; on policy the gradient is -Â / 3.
    values = tensor([[-0.4, 0.0, 0.8]])
    mask = torch.ones(1, 3)
    reward = objective.terminal_reward(tensor([math.nan]), torch.zeros(1).bool(), values, mask)
    a = objective.whiten(objective.raw_advantages(reward, values, mask), mask)
    close(a, [[0.872872, 0.218218, -1.091089]])
    _, gradient = policy_gradient(tensor([[-1, -2, -3]]), tensor([[-1, -2, -3]]), a, mask)
    close(gradient, [[-0.290957, -0.072739, 0.363696]])


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        objective.whiten(torch.ones(2, 3), torch.ones(2, 4))
