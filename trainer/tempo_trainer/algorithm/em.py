"""One iteration of TEMPO: recalibrate the critic, then refine the policy, unless it would harm.

The caller samples, stores and publishes; nothing here draws, logs or writes.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from tempo_trainer.algorithm import objective, steps
from tempo_trainer.algorithm.batch import Batch, read
from tempo_trainer.algorithm.fitness import describe, measure, refuse
from tempo_trainer.algorithm.networks import Critic, Networks, Policy
from tempo_trainer.algorithm.optimiser import Update
from tempo_trainer.algorithm.reports import EMReport, MStep, Shift, Signal, Updates
from tempo_trainer.clock import phase
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

    Without labeled batches the critic judges as it is.

    E   φ ← argmin  E[x∈D_L, y∼π_θ] (V_φ(x, y<t) − I)²             recalibrate the critic   (eq. 6)
    M   θ ← argmax  E[x∈D_U, y∼π_θ] A_t · log π_θ(y_t | x, y<t)    refine the policy        (eq. 12)
    """
    critic, policy = networks.critic, networks.policy
    batch = _policy_batch(labeled, unlabeled, settings)
    early = judge(critic, batch, settings) if settings.order == "release" else None
    e_step = recalibrate(critic, labeled, settings)
    fitness = measure(critic, held_out, settings)
    signal = early or judge(critic, batch, settings)
    if refusal := refuse(fitness, signal, settings):
        return EMReport(e_step, fitness, signal, refusal=refusal)
    return EMReport(e_step, fitness, signal, refine(policy, batch, signal.advantages, settings))


@phase("e_step")
def recalibrate(critic: Critic, batches: Sequence[Batch], settings: TrainerSettings) -> Updates:
    """Fit the critic to the outcomes of labeled rollouts: the E-step; `batches` newest first."""
    recent, size = batches[: 1 + settings.replay_batches], settings.tokens_per_microbatch
    alike = settings.critic_keeps_zero_variance
    known = [b.labeled & (b.informative() | alike) for b in recent]
    fit = [b.select(rows) for b, rows in zip(recent, known, strict=True) if rows.any()][::-1]
    old = [read(critic.values, b, size) if settings.value_clip else None for b in fit]
    order = list(zip(fit, old, strict=True)) * settings.critic_epochs
    return Updates.of([steps.fit(critic, batch, before, settings) for batch, before in order])


@phase("values")
def judge(critic: Critic, batch: Batch, settings: TrainerSettings) -> Signal:
    """Let the critic reward unlabeled rollouts, and weigh each token (eq. 11)."""
    values = read(critic.values, batch, settings.tokens_per_microbatch)
    labeled, sign = batch.labeled, settings.reward_sign
    reward = objective.terminal_reward(batch.outcome, labeled, values, batch.mask, sign=sign)
    mask = batch.mask * ~batch.truncated[:, None] if settings.mask_truncated else batch.mask
    raw = objective.raw_advantages(reward, values, mask)
    mean, variance = objective.moments(raw, mask * ~labeled[:, None])
    if settings.estimator == "em_gae":
        raw = objective.gae(reward, values, mask, decay=settings.gae_decay)
    a = _whiten(raw, mask, labeled, settings)
    if settings.estimator == "em":
        a = objective.group_advantages(reward.clamp(-1, 1), batch.group)[:, None] * mask
    return Signal(
        advantages=a,
        reward=reward[~labeled].mean().item(),
        advantage_mean=mean.item(),
        advantage_std=variance.sqrt().item(),
        labeled_rows=int(labeled.sum()),
        verdicts=describe(values, batch),
    )


@phase("m_step")
def refine(policy: Policy, batch: Batch, a: Tensor, settings: TrainerSettings) -> MStep:
    """Raise the log-probability of tokens with a positive advantage: the M-step."""
    parts = batch.minibatches(settings.minibatches)
    rows, size = [batch.select(part) for part in parts], settings.tokens_per_microbatch
    # With one minibatch the old log-probabilities are those of its only pass: no pass for them.
    old = [read(policy.logprobs, b, size) if len(parts) > 1 else None for b in rows]
    made: list[tuple[Update, Shift]] = []
    for part, b, o in zip(parts, rows, old, strict=True):
        weights = a[part, : b.mask.shape[1]]
        made.append(steps.improve(policy, b, weights, o, settings, first=not made))
    updates, shifts = zip(*made, strict=True)
    return MStep(Updates.of(updates), Shift.average(shifts))


def _policy_batch(labeled: Sequence[Batch], unlabeled: Batch, settings: TrainerSettings) -> Batch:
    """Return what the policy learns from; labeled groups with outcomes all alike teach nothing."""
    if not labeled or not settings.labeled_in_policy or not labeled[0].informative().any():
        return unlabeled
    return unlabeled.concatenate(labeled[0].select(labeled[0].informative()))


def _whiten(raw: Tensor, mask: Tensor, labeled: Tensor, settings: TrainerSettings) -> Tensor:
    return objective.advantages(
        raw,
        mask,
        labeled,
        per_domain=settings.whiten_scope == "per_domain",
        shift_unlabeled=settings.whiten_shift_unlabeled,
        floor=settings.advantage_std_floor,
        most=settings.advantage_clamp or math.inf,
    )
