"""One optimiser step of the critic or the policy, cut into micro-batches that change nothing."""

import math

import torch
from torch import Tensor

from tempo_trainer.algorithm import objective
from tempo_trainer.algorithm.batch import Batch, read
from tempo_trainer.algorithm.networks import Critic, Policy
from tempo_trainer.algorithm.objective import PerToken, Scalar
from tempo_trainer.algorithm.optimiser import Update
from tempo_trainer.algorithm.reports import Shift
from tempo_trainer.settings import TrainerSettings


def fit(critic: Critic, batch: Batch, old: Tensor | None, settings: TrainerSettings) -> Update:
    """Make one step of the critic; with `old` values, their mean moves at most `value_clip`."""
    total, clip, count = 0.0, settings.value_clip, len(batch)
    with critic.active():
        for rows, micro in batch.micro_batches(settings.tokens_per_microbatch):
            values, mask = critic.values(micro), micro.mask
            before = None if old is None else old[rows, : mask.shape[1]]
            known = (values, micro.outcome, mask, micro.labeled)
            loss = objective.critic_loss(*known, denominator=count, old=before, clip=clip)
            torch.autograd.backward(loss)
            total += loss.item()
    return critic.optimiser.step(total)


def improve(
    policy: Policy,
    batch: Batch,
    a: Tensor,
    old: Tensor | None,
    settings: TrainerSettings,
    *,
    first: bool,
) -> tuple[Update, Shift]:
    """Make one step of the policy; without `old` log-probabilities it is on policy."""
    size, cap, kl = settings.tokens_per_microbatch, settings.importance_cap, settings.kl_coefficient
    base = read(policy.base_logprobs, batch, size) if kl else None
    before, now, total = torch.zeros_like(a), torch.zeros_like(a), 0.0
    with policy.active():
        for rows, micro in batch.micro_batches(size):
            at, mask = (rows, slice(micro.mask.shape[1])), micro.mask
            logprobs = policy.logprobs(micro)
            now[at] = logprobs.detach()
            before[at] = now[at] if old is None else old[at]
            # An invariant: both passes cut the batch alike, and nothing has changed in between.
            assert not first or torch.equal(now[at].nan_to_num(), before[at].nan_to_num())
            w = objective.importance_weights(before[at], micro.sampled_logprobs, cap=cap)
            loss = objective.policy_loss(
                *(logprobs, before[at], a[at], mask, w),
                low=settings.clip_low,
                high=settings.clip_high,
                per_token=settings.policy_ratio == "token",
                denominator=len(a),
            )
            if base is not None:  # a token mean over the whole step
                share = kl * mask.sum() / batch.mask.sum()
                loss = loss + share * objective.approx_kl(logprobs, base[at], mask)
            torch.autograd.backward(loss)
            total += loss.item()
    return policy.optimiser.step(total), _shift(now, before, a, base, batch, settings)


def clip_fraction(
    ratio: PerToken, a: PerToken, mask: PerToken, *, low: float, high: float
) -> Scalar:
    """Σ m [clip(s) A < s A] / Σ m: the share of tokens that have lost their gradient."""
    clipped = ratio.clamp(1 - low, 1 + high) * a < ratio * a  # (B, T)
    return (clipped * mask).sum() / mask.sum()


def capped_fraction(logprobs: PerToken, sampled: PerToken, mask: PerToken, *, cap: float) -> Scalar:
    """Σ m [π_θ / π_sampler > cap] / Σ m: the share of tokens whose importance weight is cut."""
    return (((logprobs - sampled).exp() > (cap or math.inf)) * mask).sum() / mask.sum()


def _shift(
    now: Tensor,
    before: Tensor,
    a: Tensor,
    base: Tensor | None,
    batch: Batch,
    settings: TrainerSettings,
) -> Shift:
    mask, sampled, cap = batch.mask, batch.sampled_logprobs, settings.importance_cap
    low, high, per_token = settings.clip_low, settings.clip_high, settings.policy_ratio == "token"
    ratio = objective.policy_ratio(now, before, mask, per_token=per_token)
    return Shift(
        approx_kl=objective.approx_kl(before, now, mask).item(),
        clip_fraction=clip_fraction(ratio, a, mask, low=low, high=high).item(),
        sampler_kl=objective.approx_kl(sampled, before, mask).item(),
        capped_fraction=capped_fraction(before, sampled, mask, cap=cap).item(),
        base_kl=math.nan if base is None else objective.approx_kl(now, base, mask).item(),
    )
