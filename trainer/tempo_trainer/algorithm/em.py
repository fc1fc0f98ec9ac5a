"""One iteration of TEMPO: recalibrate the critic, then refine the policy, unless it would harm.

The caller samples, stores and publishes. Nothing here draws, logs or touches a disk; `phase` adds
the seconds of each step to the process's clock.
"""

from collections.abc import Sequence
from typing import assert_never

from torch import Tensor

from tempo_trainer.algorithm import objective, steps
from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.fitness import measure, refusal_reason, value_stats
from tempo_trainer.algorithm.networks import Critic, Networks, Policy
from tempo_trainer.algorithm.optimiser import Update
from tempo_trainer.algorithm.reports import AdvantageSignal, EMReport, MStep, PolicyDrift, Updates
from tempo_trainer.clock import phase
from tempo_trainer.settings import TrainerSettings


def em_step(
    networks: Networks,
    *,
    labeled: Sequence[Batch],
    unlabeled: Batch,
    held_out: Batch | None,
    settings: TrainerSettings,
) -> EMReport:
    """Make one iteration (algorithm 1, stage 2).

    E   φ ← argmin  E[x∈D_L, y∼π_θ] (V_φ(x, y<t) − I)²             recalibrate the critic   (eq. 6)
    M   θ ← argmax  E[x∈D_U, y∼π_θ] A_t · log π_θ(y_t | x, y<t)    refine the policy        (eq. 12)

    `labeled` is this iteration's batch, then the batches to replay, newest first. If it is empty,
    no E-step is made and the critic gives its advantages as it is. `held_out` measures the critic;
    None measures nothing, so no M-step is made.
    """
    batch = policy_batch(labeled, unlabeled, settings)
    if settings.order == "reference_code":
        signal = advantage_signal(networks.critic, batch, settings)  # before this E-step
        e_step = recalibrate(networks.critic, labeled, settings)
    else:
        e_step = recalibrate(networks.critic, labeled, settings)
        signal = advantage_signal(networks.critic, batch, settings)
    fitness = measure(networks.critic, held_out, settings)
    if refusal := refusal_reason(fitness, signal, settings):
        return EMReport(e_step, fitness, signal, refusal=refusal)
    m_step = refine(networks.policy, batch, signal.advantages, settings)
    return EMReport(e_step, fitness, signal, m_step)


@phase("e_step")
def recalibrate(critic: Critic, batches: Sequence[Batch], settings: TrainerSettings) -> Updates:
    """Fit the critic to the outcomes of labeled rollouts (eq. 6); `batches` are newest first."""
    recent = batches[: 1 + settings.replay_batches]
    # Oldest first, so that the last step is on responses of the policy as it is now: the critic
    # rates such responses next. Questions whose responses are all right or all wrong are kept, or
    # the critic would learn that every question is right half of the time.
    epoch = [batch.select(batch.labeled) for batch in reversed(recent)]
    passes = epoch * settings.critic_epochs
    return Updates.of([steps.critic_step(critic, batch, settings) for batch in passes])


@phase("values")
def advantage_signal(critic: Critic, batch: Batch, settings: TrainerSettings) -> AdvantageSignal:
    """Give each rollout its reward, and each of its tokens its advantage (eq. 11)."""
    values = forward_no_grad(critic.values, batch, settings.tokens_per_microbatch)  # (B, T)
    mask = batch.mask  # (B, T)
    labeled = batch.labeled  # (B,)
    sign = settings.reward_sign
    reward = objective.terminal_reward(batch.outcome, labeled, values, mask, sign=sign)
    raw = objective.raw_advantages(reward, values, mask)  # (B, T)
    # Measure unlabeled tokens only. With labeled ones the spread would look healthy even for a
    # critic that gives every token the same value.
    mean, variance = objective.moments(raw, mask * ~labeled[:, None])
    match settings.estimator:
        case "em_token":
            # Labeled and unlabeled tokens are whitened together, before any cut into minibatches.
            advantages = objective.whiten(raw, mask, floor=settings.advantage_std_floor)
        case "em":
            # Values can lie outside −1…+1, outcomes cannot, so values are clamped.
            per_row = objective.group_advantages(reward.clamp(-1, 1), batch.group)  # (B,)
            advantages = per_row[:, None] * mask
        case estimator:
            assert_never(estimator)
    return AdvantageSignal(
        advantages=advantages,
        reward=reward[~labeled].mean().item(),
        advantage_mean=mean.item(),
        advantage_std=variance.sqrt().item(),
        labeled_rows=int(labeled.sum()),
        value_stats=value_stats(values, batch),
    )


@phase("m_step")
def refine(policy: Policy, batch: Batch, a: Tensor, settings: TrainerSettings) -> MStep:
    """Raise the log-probability of tokens with a positive advantage `a` (B, T) (eq. 12)."""
    parts = batch.minibatches(settings.minibatches)
    minibatches = [batch.select(rows) for rows in parts]
    size = settings.tokens_per_microbatch
    # All old log-probabilities are read before the first step. With one minibatch none are needed,
    # because the policy has not changed yet.
    on_policy = len(parts) == 1
    old = [None if on_policy else forward_no_grad(policy.logprobs, b, size) for b in minibatches]
    updates: list[Update] = []
    drifts: list[PolicyDrift] = []
    for rows, minibatch, before in zip(parts, minibatches, old, strict=True):
        own = a[rows, : minibatch.mask.shape[1]]  # a minibatch is cut to its longest row
        update, drift = steps.policy_step(policy, minibatch, own, before, settings)
        updates.append(update)
        drifts.append(drift)
    return MStep(Updates.of(updates), PolicyDrift.of(drifts))


def policy_batch(labeled: Sequence[Batch], unlabeled: Batch, settings: TrainerSettings) -> Batch:
    """Return the rows that the policy learns from."""
    if not labeled or not settings.labeled_in_policy:
        return unlabeled
    # A group whose outcomes are all alike says nothing about which response is the better one.
    informative = labeled[0].informative()
    if not informative.any():
        return unlabeled
    return unlabeled.concatenate(labeled[0].select(informative))
