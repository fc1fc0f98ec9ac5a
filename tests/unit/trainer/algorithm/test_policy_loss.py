"""The policy's loss: golden vectors of the specification, and the theorems that it obeys."""

import math

import numpy as np
import pytest
import torch
from vectors import CLIP, GOLDEN, close, policy_gradient, some_rows, tensor

from tempo_trainer.algorithm import objective, steps


def test_policy_loss_and_its_gradient_agree_with_the_reference_code() -> None:
    case = GOLDEN["G5_gspo"]
    old = tensor(case["old"])
    a = tensor(case["adv"])
    mask = tensor(case["mask"])
    logprobs = old + tensor(case["delta"])
    ratio = objective.sequence_ratio(logprobs, old, mask)
    close(ratio[:, 0], case["ratio"])
    loss, gradient = policy_gradient(logprobs, old, a, mask)
    close(loss, case["loss"])
    close(gradient, case["grad_logp"])
    close(steps.clip_fraction(ratio, a, mask, **CLIP), case["clipfrac"])
    loss, gradient = policy_gradient(old, old, a, mask)
    close(loss, case["onpolicy_loss"])
    close(gradient, case["onpolicy_grad"])
    assert steps.clip_fraction(torch.ones_like(old), a, mask, **CLIP) == 0


def test_the_on_policy_gradient_is_that_of_reinforce() -> None:
    logprobs, a, mask = some_rows()
    _, gradient = policy_gradient(logprobs, logprobs, a, mask)
    expected = -a * mask / (len(mask) * mask.sum(1, keepdim=True))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("shift", "sign"), [(+0.01, -1), (-0.01, +1)])
def test_outside_the_clip_band_exactly_one_sign_of_advantage_keeps_its_gradient(
    shift: float, sign: int
) -> None:
    old, a, mask = some_rows()
    _, gradient = policy_gradient(old + shift * mask, old, a, mask)
    assert torch.equal(gradient != 0, a * sign > 0)


def test_importance_weights_are_capped_by_token_and_carry_no_gradient() -> None:
    case = GOLDEN["G12_rollout_is"]
    trainer = tensor([case["trainer"]]).requires_grad_()
    sampler = tensor([case["vllm"]])
    weights = objective.importance_weights(trainer, sampler, cap=2.0)
    close(weights, [case["tok_trunc_2"]])
    close(objective.importance_weights(trainer, sampler, cap=100.0), [case["rho"]])
    assert not weights.requires_grad
    mask = torch.ones(1, 4)
    close(objective.approx_kl(sampler, trainer.detach(), mask), case["k3"])
    close(steps.capped_fraction(trainer.detach(), sampler, mask, cap=2.0), 0.25)
    # The mean of the log-ratios, and their sum over a whole response.
    ratio = objective.sequence_ratio(trainer.detach(), sampler, mask)[:, 0]
    close(ratio, [case["seq_geo"]])
    close(ratio**4, [case["seq_product"]])
    close(-ratio.log(), [case["k1"]])


def test_without_a_cap_every_token_weighs_the_same() -> None:
    trainer, sampler = torch.rand(2, 2, 3)
    assert (objective.importance_weights(trainer, sampler, cap=0.0) == 1).all()
    assert steps.capped_fraction(trainer, sampler, torch.ones(2, 3), cap=0.0) == 0


def test_the_largest_ratio_gap_is_that_of_a_sampled_token() -> None:
    logprobs, _, mask = some_rows()
    old = logprobs.clone()
    old[2, 4] = -9.0  # padding
    assert steps.largest_ratio_gap(logprobs, old, mask) == 0
    old[1, 2] += 0.1
    close(steps.largest_ratio_gap(logprobs, old, mask), 1 - math.exp(-0.1))


def test_approx_kl_is_k3_which_is_k2_if_the_policies_are_close() -> None:
    case = GOLDEN["G18_kl"]
    d = tensor([case["d"]])
    mask = torch.ones(1, 3)
    nothing = torch.zeros(1, 3)
    close(objective.approx_kl(d, nothing, mask), case["k3"])
    close(objective.approx_kl(0.01 * d, nothing, mask) / 0.01**2, case["k2"])
    close(objective.sequence_ratio(d, nothing, mask)[:, 0].log(), [case["k1"]])


def test_the_kl_is_least_at_the_base_and_pulls_each_token_towards_it() -> None:
    base, shift, mask = some_rows()
    shift = torch.where(mask > 0, shift, 9.0)
    logprobs = (base + shift).requires_grad_()
    assert objective.approx_kl(base, base, mask) == 0
    kl = objective.base_kl_loss(logprobs, base, mask, denominator=3)
    (gradient,) = torch.autograd.grad(kl, logprobs)
    assert kl > 0
    expected = -torch.expm1(-shift) * mask / (3 * mask.sum(1, keepdim=True))
    torch.testing.assert_close(gradient, expected)


def test_the_kl_counts_each_row_alike_as_the_policys_loss_does() -> None:
    # By numpy: rows of 5, 3 and 1 tokens, each with the mean of its own tokens.
    base, shift, mask = some_rows()
    d = shift.numpy().astype(float)
    k3 = (np.exp(-d) - 1 + d) * mask.numpy()
    means = [k3[row, :length].sum() / length for row, length in enumerate((5, 3, 1))]
    kl = objective.approx_kl(base + shift, base, mask)
    assert kl.item() == pytest.approx(np.mean(means), rel=1e-5)
    loss = objective.base_kl_loss(base + shift, base, mask, denominator=6)  # half of a step's rows
    assert loss.item() == pytest.approx(np.sum(means) / 6, rel=1e-5)


def test_the_gradient_of_the_kl_loss_is_that_of_the_kl_of_base_to_policy() -> None:
    # All responses of one token, each as often as the policy samples it.
    base = tensor([0.6, 0.3, 0.1])
    logits = tensor([0.2, 0.5, 0.3]).log().requires_grad_()
    pi = logits.softmax(0)
    repeats = (10 * pi.detach()).round().long()
    tokens = torch.repeat_interleave(torch.arange(3), repeats)
    lp = logits.log_softmax(0)[tokens][:, None]
    mask = torch.ones(10, 1)
    loss = objective.base_kl_loss(lp, base.log()[tokens][:, None], mask, denominator=10)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, pi.detach() - base, rtol=1e-5, atol=1e-6)
    # The value is that of the other direction.
    close(loss, (pi * (pi / base).log()).sum().item())


def test_with_a_true_critic_the_m_step_climbs_the_evidence() -> None:
    # Ten responses in the proportions of π; the expected gradient is J · (posterior − π).
    case = GOLDEN["G14_elbo"]
    evidence = math.exp(case["log_evidence"])
    posterior = tensor(case["posterior"])
    pi = tensor(case["pi"])
    responses = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    reward = tensor(case["p_correct"])[responses]
    mask = torch.ones(10, 1)
    a = objective.raw_advantages(reward, torch.full((10, 1), evidence), mask)
    logits = pi.log().requires_grad_()
    lp = logits.log_softmax(0)[responses][:, None]
    loss = objective.policy_loss(lp, lp.detach(), a, mask, mask, **CLIP, denominator=10)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(-gradient, evidence * (posterior - pi), rtol=1e-5, atol=1e-5)
