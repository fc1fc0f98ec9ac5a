"""One optimiser step of the critic or of the policy, split into micro-batches.

The split does not change the gradient.
"""

import math

import torch
from torch import Tensor

from tempo_trainer.algorithm import objective
from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.networks import Critic, Policy
from tempo_trainer.algorithm.objective import PerToken, Scalar
from tempo_trainer.algorithm.optimiser import Update
from tempo_trainer.algorithm.reports import PolicyDrift
from tempo_trainer.settings import TrainerSettings


def critic_step(critic: Critic, batch: Batch, settings: TrainerSettings) -> Update:
    """Make one optimiser step of the critic on labeled rows (eq. 6)."""
    count = len(batch)
    total = 0.0
    with critic.active():
        for _, micro in batch.micro_batches(settings.tokens_per_microbatch):
            values = critic.values(micro)
            loss = objective.critic_loss(
                values, micro.outcome, micro.mask, micro.labeled, denominator=count
            )
            torch.autograd.backward(loss)
            total += loss.item()
    return critic.optimiser.step(total)


def policy_step(
    policy: Policy, batch: Batch, a: Tensor, old: Tensor | None, settings: TrainerSettings
) -> tuple[Update, PolicyDrift]:
    """Make one optimiser step of the policy along the advantages `a` (B, T) (eq. 12).

    `old` (B, T) are the log-probabilities before the M-step; None: the batch is on policy.
    """
    size = settings.tokens_per_microbatch
    base = forward_no_grad(policy.base_logprobs, batch, size) if settings.kl_coefficient else None
    now = torch.zeros_like(a)  # (B, T)
    total = 0.0
    with policy.active():
        for rows, micro in batch.micro_batches(size):
            at = (rows, slice(micro.mask.shape[1]))  # where the micro-batch stands in the batch
            logprobs = policy.logprobs(micro)
            now[at] = logprobs.detach()
            before = now[at] if old is None else old[at]
            weights = objective.importance_weights(
                before, micro.sampled_logprobs, cap=settings.importance_cap
            )
            loss = objective.policy_loss(
                logprobs,
                before,
                a[at],
                micro.mask,
                weights,
                low=settings.clip_low,
                high=settings.clip_high,
                denominator=len(a),
            )
            if base is not None:
                kl = objective.base_kl_loss(logprobs, base[at], micro.mask, denominator=len(a))
                loss = loss + settings.kl_coefficient * kl
            torch.autograd.backward(loss)
            total += loss.item()
    update = policy.optimiser.step(total)
    return update, _drift(now, now if old is None else old, a, base, batch, settings)


def clip_fraction(
    ratio: PerToken, a: PerToken, mask: PerToken, *, low: float, high: float
) -> Scalar:
    """Σ m [clip(s) A < s A] / Σ m: the share of tokens that have lost their gradient."""
    clipped = ratio.clamp(1 - low, 1 + high) * a < ratio * a  # (B, T)
    return (clipped * mask).sum() / mask.sum()


def capped_fraction(logprobs: PerToken, sampled: PerToken, mask: PerToken, *, cap: float) -> Scalar:
    """Σ m [π_θ / π_sampler > cap] / Σ m: the share of tokens whose importance weight is cut."""
    return (((logprobs - sampled).exp() > (cap or math.inf)) * mask).sum() / mask.sum()


def largest_ratio_gap(logprobs: PerToken, old: PerToken, mask: PerToken) -> Scalar:
    """max_t |π_θ(y_t) / π_old(y_t) − 1| over the tokens of the mask."""
    return (torch.expm1(logprobs - old) * mask).abs().max()


def _drift(
    now: Tensor,
    before: Tensor,
    a: Tensor,
    base: Tensor | None,
    batch: Batch,
    settings: TrainerSettings,
) -> PolicyDrift:
    mask = batch.mask
    sampled = batch.sampled_logprobs
    cap = settings.importance_cap
    ratio = objective.sequence_ratio(now, before, mask)
    clipped = clip_fraction(ratio, a, mask, low=settings.clip_low, high=settings.clip_high)
    return PolicyDrift(
        approx_kl=objective.approx_kl(before, now, mask).item(),
        clip_fraction=clipped.item(),
        sampler_kl=objective.approx_kl(sampled, before, mask).item(),
        capped_fraction=capped_fraction(before, sampled, mask, cap=cap).item(),
        base_kl=math.nan if base is None else objective.approx_kl(now, base, mask).item(),
        first_ratio_gap=largest_ratio_gap(now, before, mask).item(),
    )
