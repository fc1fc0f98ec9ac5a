"""The formulas: golden vectors of the specification, and the theorems they must obey."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tempo_trainer.algorithm import objective, steps

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden.json").read_text())
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
    logprobs: Tensor, old: Tensor, a: Tensor, mask: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    lp = logprobs.clone().requires_grad_()
    ones, options = torch.ones_like(mask), {**CLIP, "denominator": len(mask), **options}
    loss = objective.policy_loss(lp, old, a, mask, ones, **options)
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
    ratio = objective.policy_ratio(logprobs, old, mask)
    close(steps.clip_fraction(ratio, a, mask, **CLIP), case["clipfrac"])
    loss, gradient = policy_gradient(old, old, a, mask)
    close(loss, case["onpolicy_loss"])
    close(gradient, case["onpolicy_grad"])
    assert steps.clip_fraction(torch.ones_like(old), a, mask, **CLIP) == 0


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
    close(steps.capped_fraction(trainer.detach(), sampler, mask, cap=2.0), 0.25)
    # The mean of the log-ratios, and what becomes of it over a whole response.
    ratio = objective.sequence_ratio(trainer.detach(), sampler, mask)
    close(ratio, [case["seq_geo"]])
    close(ratio**4, [case["seq_product"]])
    close(-ratio.log(), [case["k1"]])


def test_without_a_cap_every_token_weighs_the_same() -> None:
    trainer, sampler = torch.rand(2, 3), torch.rand(2, 3)
    assert (objective.importance_weights(trainer, sampler, cap=0.0) == 1).all()
    assert steps.capped_fraction(trainer, sampler, torch.ones(2, 3), cap=0.0) == 0


def test_approx_kl_is_k3_which_is_k2_where_the_policies_are_close() -> None:
    case = GOLDEN["G18_kl"]
    d, mask = tensor([case["d"]]), torch.ones(1, 3)
    nothing = torch.zeros(1, 3)
    close(objective.approx_kl(d, nothing, mask), case["k3"])
    close(objective.approx_kl(0.01 * d, nothing, mask) / 0.01**2, case["k2"])
    close(objective.sequence_ratio(d, nothing, mask).log(), [case["k1"]])


def test_the_kl_is_least_at_the_base_and_pulls_each_token_towards_it() -> None:
    base, moved, mask = some_rows()
    moved = torch.where(mask > 0, moved, 9.0)
    logprobs = (base + moved).requires_grad_()
    assert objective.approx_kl(base, base, mask) == 0
    kl = objective.approx_kl(logprobs, base, mask)
    (gradient,) = torch.autograd.grad(kl, logprobs)
    assert kl > 0
    torch.testing.assert_close(gradient, -torch.expm1(-moved) * mask / mask.sum())


RELEASED = GOLDEN["G6_value_loss"]["cases"]


def critic_gradient(case: dict[str, Any], rows: list[int], **options: Any) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient; the released loss has a factor of one half."""
    shared = GOLDEN["G6_value_loss"]
    labeled = torch.tensor(shared["labeled"]).bool()[rows]
    outcome, mask = tensor([1, -1, math.nan])[rows], tensor(shared["mask"])[rows]
    values, old = tensor(case["v_new"])[rows].requires_grad_(), tensor(shared["v_old"])[rows]
    options = {"old": old, "clip": case["eps"], "denominator": 2} | options
    loss = objective.critic_loss(values, outcome, mask, labeled, **options) / 2
    return loss.detach(), torch.autograd.grad(loss, values)[0]


@pytest.mark.parametrize("name", [name for name, c in RELEASED.items() if c["agg"] == "seq"])
def test_the_clipped_critic_loss_is_twice_the_released_one(name: str) -> None:
    case = RELEASED[name]
    loss, gradient = critic_gradient(case, [0, 1, 2])
    close(loss, case["loss"])
    close(gradient, case["grad"])


def test_a_token_mean_is_the_same_loss_with_rows_weighted_by_length() -> None:
    case, lengths = RELEASED["toward_tok"], [3, 2]
    rows = [critic_gradient(case, [row], denominator=1) for row in (0, 1)]
    close(sum(n * loss / 5 for n, (loss, _) in zip(lengths, rows, strict=True)), case["loss"])
    for n, (_, gradient), expected in zip(lengths, rows, case["grad"], strict=False):
        close(n * gradient[0] / 5, expected)


def test_without_old_values_nothing_is_clipped() -> None:
    case = RELEASED["unclipped_seq"]
    loss, gradient = critic_gradient(case, [0, 1, 2], old=None)
    close(loss, case["loss"])
    close(gradient, case["grad"])


def test_on_a_clipped_row_the_shape_still_learns_and_the_mean_does_not() -> None:
    _, gradient = critic_gradient(RELEASED["toward_seq"], [0])
    assert gradient.any()
    close(gradient.sum(), 0.0)


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


def test_group_advantages_agree_with_the_released_code() -> None:
    case = GOLDEN["G3_em_outcome"]
    group = torch.tensor([ord(name) for name in case["group"]])
    outcome = tensor([math.nan if r is None else r for r in case["reward"]])
    values, mask = tensor(case["last_values"])[:, None], torch.ones(8, 1)
    labeled = torch.tensor(case["labeled"]).bool()
    score = objective.terminal_reward(outcome, labeled, values, mask).clamp(-1, 1)
    close(score, case["score"])
    close(objective.group_advantages(score, group), case["adv"])


def test_votes_become_advantages_like_scores() -> None:
    case = GOLDEN["G11_votes"]
    group = torch.zeros(8).long()
    found = objective.group_advantages(tensor(case["ttrl"]), group)
    close(found, [case["ttrl_adv"] * (1 if won else -1) for won in case["ttrl"]])
    expected = [case["empo_adv"].get(a, case["empo_adv"]["other"]) for a in case["answers"]]
    close(objective.group_advantages(tensor(case["empo"]), group), expected)


def test_group_advantages_see_only_the_order_and_spacing_within_a_group() -> None:
    score, group = torch.randn(8), torch.tensor([0, 1, 0, 1, 1, 0, 1, 2])
    found = objective.group_advantages(score, group)
    for number in (0, 1):
        close(torch.stack([found[group == number].mean(), found[group == number].std()]), [0, 1])
    moved = torch.where(group == 1, 3 * score + 5, score)
    torch.testing.assert_close(objective.group_advantages(moved, group), found)
    assert found[7] == 0  # alone in its group


@pytest.mark.parametrize("score", [0.3, 1.0, -0.7])
def test_a_group_of_equal_scores_has_no_advantage(score: float) -> None:
    found = objective.group_advantages(torch.full((7,), score), torch.zeros(7).long())
    close(found, [0.0] * 7)


@pytest.mark.parametrize(("name", "decay"), [("lam1.0", 1.0), ("lam0.95", 0.95)])
def test_gae_gives_unlabeled_rows_their_last_value_as_the_reward(name: str, decay: float) -> None:
    case = GOLDEN["G4_em_gae_raw"]
    values, mask = tensor(case["values"]), torch.ones(2, 3)
    labeled = torch.tensor(case["labeled"]).bool()
    reward = objective.terminal_reward(tensor([1, math.nan]), labeled, values, mask)
    found = objective.gae(reward, values, mask, decay=decay)
    close(found, case[name]["fixed"])
    assert not torch.allclose(found[1], tensor(case[name]["released"])[1])


def test_gae_without_decay_is_the_papers_advantage_and_with_full_decay_the_next_difference() -> (
    None
):
    values, reward, mask = *some_rows()[:1], tensor([1, -1, 0.5]), some_rows()[2]
    raw = objective.raw_advantages(reward, values, mask)
    torch.testing.assert_close(objective.gae(reward, values, mask, decay=1.0), raw)
    differences = objective.gae(reward, values, mask, decay=0.0)
    close(
        differences[1], [values[1, 1] - values[1, 0], values[1, 2] - values[1, 1], raw[1, 2], 0, 0]
    )
    dirty = torch.where(mask > 0, values, 9.0)
    found = objective.gae(reward, dirty, mask, decay=0.95)
    assert torch.equal(found, objective.gae(reward, values, mask, decay=0.95))


def test_a_critic_on_another_scale_gives_unlabeled_rows_the_same_advantages() -> None:
    values, _, mask = some_rows()
    none, nothing = torch.zeros(3).bool(), torch.full((3,), math.nan)

    def of(values: Tensor) -> Tensor:
        reward = objective.terminal_reward(nothing, none, values, mask)
        return objective.advantages(objective.raw_advantages(reward, values, mask), mask, none)

    torch.testing.assert_close(of(0.5 * values - 3), of(values), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of(-values), -of(values))


@pytest.mark.parametrize("per_domain", [False, True])
def test_unlabeled_rows_that_are_not_shifted_keep_their_sign(per_domain: bool) -> None:
    case = GOLDEN["G1_em_token"]
    raw, mask = tensor(case["raw"]), tensor(case["mask"])
    labeled = torch.tensor(case["labeled"]).bool()
    shifted = objective.advantages(raw, mask, labeled, per_domain=per_domain)
    found = objective.advantages(raw, mask, labeled, per_domain=per_domain, shift_unlabeled=False)
    assert torch.equal(found[labeled], shifted[labeled])
    scale = 0.25 if per_domain else case["var_unbiased"]
    close(found[1], [x / math.sqrt(scale) for x in case["raw"][1]])


def test_advantages_are_clamped_after_they_are_whitened() -> None:
    _, raw, mask = some_rows()
    whitened = objective.whiten(raw, mask)
    found = objective.advantages(raw, mask, torch.zeros(3).bool(), most=0.5)
    assert torch.equal(found, whitened.clamp(-0.5, 0.5))
    assert whitened.abs().max() > 0.5


def test_on_policy_a_clip_by_token_is_the_clip_by_sequence() -> None:
    logprobs, a, mask = some_rows()
    by_token = policy_gradient(logprobs, logprobs, a, mask, per_token=True)
    for found, expected in zip(by_token, policy_gradient(logprobs, logprobs, a, mask), strict=True):
        torch.testing.assert_close(found, expected)


def test_each_token_is_clipped_by_its_own_ratio() -> None:
    old, a, mask = some_rows()
    moved = tensor([0.1, -0.1, 0.3, -0.3, 0.0]) * mask
    band = {"low": 0.2, "high": 0.28, "per_token": True}
    _, gradient = policy_gradient(old + moved, old, a, mask, **band)
    clipped = ((moved > 0.25) & (a > 0)) | ((moved < -0.23) & (a < 0))
    assert clipped.any()
    expected = -a * moved.exp() * ~clipped / (3 * mask.sum(1, keepdim=True))
    torch.testing.assert_close(gradient, expected)
    ratio = objective.policy_ratio(old + moved, old, mask, per_token=True)
    found = steps.clip_fraction(ratio, a, mask, low=0.2, high=0.28)
    assert found == (clipped * mask).sum() / mask.sum()


def test_with_a_true_critic_the_m_step_climbs_the_evidence() -> None:
    # Ten responses in the proportions of π; the expected gradient is J · (posterior − π).
    case = GOLDEN["G14_elbo"]
    evidence, posterior = math.exp(case["log_evidence"]), tensor(case["posterior"])
    pi, responses = tensor(case["pi"]), torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    reward, mask = tensor(case["p_correct"])[responses], torch.ones(10, 1)
    a = objective.raw_advantages(reward, torch.full((10, 1), evidence), mask)
    logits = pi.log().requires_grad_()
    lp = logits.log_softmax(0)[responses][:, None]
    loss = objective.policy_loss(lp, lp.detach(), a, mask, mask, **CLIP, denominator=10)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(-gradient, evidence * (posterior - pi), rtol=1e-5, atol=1e-5)


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
