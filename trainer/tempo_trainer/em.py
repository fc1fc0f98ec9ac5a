"""One iteration of TEMPO: recalibrate the critic, then refine the policy, unless it would harm.

The caller samples, stores and publishes; nothing here draws, logs or writes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tempo_trainer import objective
from tempo_trainer.batch import Batch, read
from tempo_trainer.fitness import measure, refuse
from tempo_trainer.networks import Critic, Networks, Policy
from tempo_trainer.optimiser import Update
from tempo_trainer.reports import EMReport, MStep, Shift, Signal, Updates
from tempo_trainer.settings import TrainerSettings


def em_step(
    networks: Networks,
    *,
    labeled: Sequence[Batch],
    unlabeled: Batch,
    held_out: Batch,
    settings: TrainerSettings,
) -> EMReport:
    """Make one iteration (algorithm 1, stage 2); `labeled` is this step's batch, then replays.

    E   φ ← argmin  E[x∈D_L, y∼π_θ] (V_φ(x, y<t) − I)²             recalibrate the critic   (eq. 6)
    M   θ ← argmax  E[x∈D_U, y∼π_θ] A_t · log π_θ(y_t | x, y<t)    refine the policy        (eq. 12)
    """
    critic, policy = networks.critic, networks.policy
    batch = _policy_batch(labeled[0], unlabeled, settings)
    early = judge(critic, batch, settings) if settings.order == "release" else None
    e_step = recalibrate(critic, labeled, settings)
    fitness = measure(critic, held_out, settings)
    signal = early or judge(critic, batch, settings)
    if refusal := refuse(fitness, signal, settings):
        return EMReport(e_step, fitness, signal, refusal=refusal)
    return EMReport(e_step, fitness, signal, refine(policy, batch, signal.advantages, settings))


def recalibrate(critic: Critic, batches: Sequence[Batch], settings: TrainerSettings) -> Updates:
    """Fit the critic to the outcomes of labeled rollouts: the E-step; `batches` newest first."""
    recent = [b.select(b.labeled) for b in batches[: 1 + settings.replay_batches] if any(b.labeled)]
    order = recent[::-1] * settings.critic_epochs
    return Updates.of([_fit(critic, batch, settings) for batch in order])


def judge(critic: Critic, batch: Batch, settings: TrainerSettings) -> Signal:
    """Let the critic reward unlabeled rollouts, and weigh each token (eq. 11)."""
    values = read(critic.values, batch, settings.tokens_per_microbatch)
    mask, labeled, sign = batch.mask, batch.labeled, settings.reward_sign
    reward = objective.terminal_reward(batch.outcome, labeled, values, mask, sign=sign)
    raw = objective.raw_advantages(reward, values, mask)
    mean, variance = objective.moments(raw, mask * ~labeled[:, None])
    apart, floor = settings.whiten_scope == "per_domain", settings.advantage_std_floor
    a = objective.advantages(raw, mask, labeled, per_domain=apart, floor=floor)
    return Signal(
        advantages=a,
        reward=reward[~labeled].mean().item(),
        advantage_mean=mean.item(),
        advantage_std=variance.sqrt().item(),
        labeled_rows=int(labeled.sum()),
    )


def refine(policy: Policy, batch: Batch, a: Tensor, settings: TrainerSettings) -> MStep:
    """Raise the log-probability of tokens with a positive advantage: the M-step."""
    parts = batch.minibatches(settings.minibatches)
    rows, size = [batch.select(part) for part in parts], settings.tokens_per_microbatch
    # With one minibatch the old log-probabilities are those of its only pass: no pass for them.
    old = [read(policy.logprobs, b, size) if len(parts) > 1 else None for b in rows]
    made: list[tuple[Update, Shift]] = []
    for part, b, o in zip(parts, rows, old, strict=True):
        weights = a[part, : b.mask.shape[1]]
        made.append(_improve(policy, b, weights, old=o, first=not made, settings=settings))
    updates, shifts = zip(*made, strict=True)
    return MStep(Updates.of(updates), Shift.average(shifts))


def _policy_batch(labeled: Batch, unlabeled: Batch, settings: TrainerSettings) -> Batch:
    """Return what the policy learns from; labeled groups with outcomes all alike teach nothing."""
    mixed = labeled.informative()
    if not settings.labeled_in_policy or not mixed.any():
        return unlabeled
    return unlabeled.concatenate(labeled.select(mixed))


def _fit(critic: Critic, batch: Batch, settings: TrainerSettings) -> Update:
    total = 0.0
    with critic.active():
        for _, micro in batch.micro_batches(settings.tokens_per_microbatch):
            values, rows = critic.values(micro), len(batch)
            loss = objective.critic_loss(
                values, micro.outcome, micro.mask, micro.labeled, denominator=rows
            )
            torch.autograd.backward(loss)
            total += loss.item()
    return critic.optimiser.step(total)


def _improve(
    policy: Policy,
    batch: Batch,
    a: Tensor,
    *,
    old: Tensor | None,
    first: bool,
    settings: TrainerSettings,
) -> tuple[Update, Shift]:
    """Make one optimiser step of the policy."""
    low, high, cap = settings.clip_low, settings.clip_high, settings.importance_cap
    before, now, total = torch.zeros_like(a), torch.zeros_like(a), 0.0
    with policy.active():
        for rows, micro in batch.micro_batches(settings.tokens_per_microbatch):
            at = (rows, slice(micro.mask.shape[1]))
            logprobs = policy.logprobs(micro)
            now[at] = logprobs.detach()
            before[at] = now[at] if old is None else old[at]
            # An invariant: both passes cut the batch alike, and nothing has changed in between.
            assert not first or torch.equal(now[at].nan_to_num(), before[at].nan_to_num())
            w = objective.importance_weights(before[at], micro.sampled_logprobs, cap=cap)
            loss = objective.policy_loss(
                logprobs, before[at], a[at], micro.mask, w, low=low, high=high, denominator=len(a)
            )
            torch.autograd.backward(loss)
            total += loss.item()
    sampled, mask = batch.sampled_logprobs, batch.mask
    shift = Shift(
        approx_kl=objective.approx_kl(before, now, mask).item(),
        clip_fraction=objective.clip_fraction(now, before, a, mask, low=low, high=high).item(),
        sampler_kl=objective.approx_kl(sampled, before, mask).item(),
        capped_fraction=objective.capped_fraction(before, sampled, mask, cap=cap).item(),
    )
    return policy.optimiser.step(total), shift
