"""The formulas: golden vectors of the specification, and the theorems they must obey."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tempo_trainer import objective

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())
CLIP = {"low": 3e-4, "high": 5e-4}


def tensor(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, tensor(expected), rtol=1e-5, atol=1e-5)


def some_rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, advantages and a mask with three lengths (3, 5)."""
    generator = torch.Generator().manual_seed(seed)
    mask = tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    logprobs = -torch.rand(3, 5, generator=generator) - 0.1
    return logprobs * mask, torch.randn(3, 5, generator=generator) * mask, mask


def policy_gradient(
    logprobs: Tensor, old: Tensor, a: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    lp = logprobs.clone().requires_grad_()
    ones = torch.ones_like(mask)
    loss = objective.policy_loss(lp, old, a, mask, ones, **CLIP, denominator=len(mask))
    return loss, torch.autograd.grad(loss, lp)[0]


def test_a_value_is_read_from_the_state_before_its_token() -> None:
    case = GOLDEN["G0_index"]
    found = objective.positions(torch.tensor([case["P"]]), torch.tensor([case["L"]]))
    assert found.tolist() == [case["positions"]]
    mixed = objective.positions(torch.tensor([3, 1]), torch.tensor([2, 4]))
    assert mixed.tolist() == [[2, 3, 3, 3], [0, 1, 2, 3]]


def test_advantages_agree_with_the_released_code() -> None:
    case = GOLDEN["G1_em_token"]
    values, mask = tensor(case["values"]), tensor(case["mask"])
    labeled = torch.tensor(case["labeled"]).bool()
    outcome = torch.where(labeled, tensor(case["reward"]), math.nan)
    reward = objective.terminal_reward(outcome, labeled, values, mask)
    close(reward, case["terminal"])
    raw = objective.raw_advantages(reward, values, mask)
    close(raw, case["raw"])
    close(torch.stack(objective.moments(raw, mask)), [case["mean"], case["var_unbiased"]])
    close(objective.advantages(raw, mask, labeled), case["adv"])


def test_domains_whitened_apart_do_not_shift_one_another() -> None:
    case = GOLDEN["G1b_per_domain_whitening"]
    raw, mask = tensor(GOLDEN["G1_em_token"]["raw"]), tensor(GOLDEN["G1_em_token"]["mask"])
    labeled = torch.tensor([True, False, True])
    expected = tensor(case["labeled"]["adv"]) + tensor(case["unlabeled"]["adv"])
    found = objective.advantages(raw, mask, labeled, per_domain=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


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
    found = objective.whiten(raw, mask)
    mean, variance = objective.moments(found, mask)
    close(torch.stack([mean, variance]), [0.0, 1.0])
    assert (found[mask == 0] == 0).all()


@pytest.mark.parametrize("junk", [9.0, -1e6])
def test_padding_changes_nothing(junk: float) -> None:
    logprobs, a, mask = some_rows()
    outcome, labeled = tensor([1, -1, 1]), torch.tensor([True, True, False])

    def everything(x: Tensor, a: Tensor) -> list[Tensor]:
        reward = objective.terminal_reward(outcome, labeled, x, mask)
        raw = objective.raw_advantages(reward, x, mask)
        lp = x.clone().requires_grad_()
        ones = torch.ones_like(mask)
        loss = objective.policy_loss(lp, x, a, mask, ones, **CLIP, denominator=3)
        loss = loss + objective.critic_loss(lp, outcome, mask, labeled, denominator=2)
        gradient = torch.autograd.grad(loss, lp)[0]
        return [reward, objective.advantages(raw, mask, labeled), loss.detach(), gradient]

    dirty = torch.where(mask > 0, logprobs, junk)
    dirty_a = torch.where(mask > 0, a, junk)
    for clean, found in zip(everything(logprobs, a), everything(dirty, dirty_a), strict=True):
        torch.testing.assert_close(clean, found)


def test_an_unlabeled_rollouts_last_token_has_advantage_exactly_0() -> None:
    values, _, mask = some_rows()
    none = torch.zeros(3).bool()
    reward = objective.terminal_reward(torch.full((3,), math.nan), none, values, mask)
    raw = objective.raw_advantages(reward, values, mask)
    assert objective.last_values(raw, mask).tolist() == [0.0, 0.0, 0.0]
    assert raw.abs().sum() > 0


def test_the_sign_of_the_control_experiment_flips_only_unlabeled_rewards() -> None:
    values, _, mask = some_rows()
    labeled, outcome = torch.tensor([True, False, False]), tensor([1, math.nan, math.nan])
    plain = objective.terminal_reward(outcome, labeled, values, mask)
    flipped = objective.terminal_reward(outcome, labeled, values, mask, sign=-1)
    assert torch.equal(flipped, plain * tensor([1, -1, -1]))


def test_policy_loss_and_its_gradient_agree_with_the_released_code() -> None:
    case = GOLDEN["G5_gspo"]
    old, a, mask = tensor(case["old"]), tensor(case["adv"]), tensor(case["mask"])
    logprobs = old + tensor(case["delta"])
    close(objective.sequence_ratio(logprobs, old, mask), case["ratio"])
    loss, gradient = policy_gradient(logprobs, old, a, mask)
    close(loss, case["loss"])
    close(gradient, case["grad_logp"])
    close(objective.clip_fraction(logprobs, old, a, mask, **CLIP), case["clipfrac"])
    loss, gradient = policy_gradient(old, old, a, mask)
    close(loss, case["onpolicy_loss"])
    close(gradient, case["onpolicy_grad"])
    assert objective.clip_fraction(old, old, a, mask, **CLIP) == 0


def test_on_policy_the_gradient_is_reinforces() -> None:
    logprobs, a, mask = some_rows()
    _, gradient = policy_gradient(logprobs, logprobs, a, mask)
    expected = -a * mask / (len(mask) * mask.sum(1, keepdim=True))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("moved", "kept"), [(+0.01, -1), (-0.01, +1)])
def test_outside_the_clip_band_exactly_one_sign_of_advantage_keeps_its_gradient(
    moved: float, kept: int
) -> None:
    old, a, mask = some_rows()
    _, gradient = policy_gradient(old + moved * mask, old, a, mask)
    assert torch.equal(gradient != 0, a * kept > 0)


def test_importance_weights_are_capped_by_token_and_carry_no_gradient() -> None:
    case = GOLDEN["G12_rollout_is"]
    trainer, sampler = tensor([case["trainer"]]).requires_grad_(), tensor([case["vllm"]])
    found = objective.importance_weights(trainer, sampler, cap=2.0)
    close(found, [case["tok_trunc_2"]])
    close(objective.importance_weights(trainer, sampler, cap=100.0), [case["rho"]])
    assert not found.requires_grad
    mask = torch.ones(1, 4)
    close(objective.approx_kl(sampler, trainer.detach(), mask), case["k3"])
    close(objective.capped_fraction(trainer.detach(), sampler, mask, cap=2.0), 0.25)


def test_approx_kl_is_k3() -> None:
    case = GOLDEN["G18_kl"]
    d = tensor([case["d"]])
    close(objective.approx_kl(d, torch.zeros(1, 3), torch.ones(1, 3)), case["k3"])


def test_critic_loss_is_twice_the_released_one_without_its_clip() -> None:
    case = GOLDEN["G6_value_loss"]
    unclipped = case["cases"]["unclipped_seq"]
    labeled = torch.tensor(case["labeled"]).bool()
    outcome, mask = tensor([1, -1, math.nan]), tensor(case["mask"])
    values = tensor(unclipped["v_new"]).requires_grad_()
    loss = objective.critic_loss(values, outcome, mask, labeled, denominator=2)
    close(loss.detach() / 2, unclipped["loss"])
    close(torch.autograd.grad(loss, values)[0] / 2, unclipped["grad"])


def test_no_labeled_row_gives_no_loss_and_no_gradient() -> None:
    values, _, mask = some_rows()
    values.requires_grad_()
    none = torch.zeros(3).bool()
    loss = objective.critic_loss(values, torch.full((3,), math.nan), mask, none, denominator=0)
    assert loss == 0
    assert (torch.autograd.grad(loss, values)[0] == 0).all()


def test_critic_gradients_are_zero_outside_the_mask() -> None:
    values, _, mask = some_rows()
    values.requires_grad_()
    loss = objective.critic_loss(values, tensor([1, -1, 1]), mask, mask[:, 0] > 0, denominator=3)
    assert torch.equal(torch.autograd.grad(loss, values)[0] != 0, mask > 0)


@pytest.mark.parametrize("packing", [[[0, 3], [1, 2]], [[0], [1, 2, 3]], [[3], [0, 1, 2]]])
def test_the_critics_loss_does_not_depend_on_micro_batches(packing: list[list[int]]) -> None:
    case = GOLDEN["G16_label_normalisation"]
    labeled = torch.tensor([True, True, True, False])
    # One token a row with V = 1 − √loss and I = 1: the row's loss is the case's.
    losses = tensor([0.0 if x is None else x for x in case["row_losses"]])
    values, mask = (1 - losses.sqrt())[:, None], torch.ones(4, 1)
    parts = [
        objective.critic_loss(
            values[p], torch.ones(2 * len(p))[: len(p)], mask[p], labeled[p], denominator=3
        )
        for p in packing
    ]
    close(sum(parts, torch.zeros(())), case["exact"])


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        objective.whiten(torch.ones(2, 3), torch.ones(2, 4))


def test_three_tokens_by_hand() -> None:
    # V = -0.4, 0.0, 0.8 and no reference: R = 0.8, raw = 1.2, 0.8, 0.0; μ = 2/3,
    # σ² = ((8/15)² + (2/15)² + (2/3)²) / 2 = 0.373333, σ = 0.611010
    # Â = 0.872872, 0.218218, -1.091089; on policy the gradient is -Â / 3.
    values, mask = tensor([[-0.4, 0.0, 0.8]]), torch.ones(1, 3)
    none = torch.zeros(1).bool()
    reward = objective.terminal_reward(tensor([math.nan]), none, values, mask)
    a = objective.advantages(objective.raw_advantages(reward, values, mask), mask, none)
    close(a, [[0.872872, 0.218218, -1.091089]])
    _, gradient = policy_gradient(tensor([[-1, -2, -3]]), tensor([[-1, -2, -3]]), a, mask)
    close(gradient, [[-0.290957, -0.072739, 0.363696]])
