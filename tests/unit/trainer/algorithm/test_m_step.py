"""The M-step on a bandit: advantages, ratios, micro-batches, and the KL to the base."""

import math

import pytest
import torch
from tiny import iterate, play, random_batch, started

from tempo_trainer.algorithm import steps
from tempo_trainer.algorithm.em import advantage_signal, recalibrate, refine


def test_on_policy_nothing_is_clipped_and_the_sampler_agrees() -> None:
    nets, settings = started(warm_up=5)
    metrics = iterate(nets, settings).metrics()
    assert metrics["m_step/approx_kl"] == metrics["m_step/clip_fraction"] == 0.0
    assert metrics["m_step/first_ratio_gap"] == 0.0
    assert metrics["m_step/sampler_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["m_step/capped_fraction"] == 0.0


def test_later_minibatches_are_off_policy() -> None:
    nets, settings = started(warm_up=5, minibatches=4)
    metrics = iterate(nets, settings).metrics()
    assert metrics["m_step/steps"] == 4
    assert metrics["m_step/approx_kl"] > 0
    assert metrics["m_step/clip_fraction"] > 0


@pytest.mark.parametrize("tokens", [10_000, 100])
def test_two_passes_over_the_first_minibatch_agree_to_the_bit(tokens: int) -> None:
    nets, settings = started(warm_up=2, minibatches=4, tokens_per_microbatch=tokens)
    batch = play(nets, labeled=False, seed=0)
    a = advantage_signal(nets.critic, batch, settings).advantages
    drift = refine(nets.policy, batch, a, settings).drift
    assert drift.approx_kl > 0
    assert drift.first_ratio_gap == 0.0


def test_a_gap_between_two_passes_is_reported_and_ends_nothing() -> None:
    nets, settings = started(warm_up=2)
    batch = play(nets, labeled=False, seed=0)
    with torch.no_grad():
        old = nets.policy.logprobs(batch)
    old[3, 1] -= 0.01
    a = torch.ones_like(batch.mask)
    update, drift = steps.policy_step(nets.policy, batch, a, old, settings)
    assert update.applied
    assert drift.first_ratio_gap == pytest.approx(math.expm1(0.01), rel=1e-4)


def test_cutting_a_step_into_micro_batches_changes_neither_loss_nor_gradient() -> None:
    results = []
    for tokens in (10_000, 100, 1):
        nets, settings = started(warm_up=2, tokens_per_microbatch=tokens, critic_epochs=1)
        unlabeled = play(nets, labeled=False, seed=1, n=8)
        a = advantage_signal(nets.critic, unlabeled, settings).advantages
        m_step = refine(nets.policy, unlabeled, a, settings).updates
        labeled = play(nets, labeled=True, seed=0, n=8)
        e_step = recalibrate(nets.critic, [labeled], settings)
        results.append([e_step.loss, e_step.grad_norm, m_step.loss, m_step.grad_norm])
    assert results[1] == pytest.approx(results[0], rel=1e-3, abs=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-3, abs=1e-5)


def test_a_kl_to_the_base_holds_the_policy_near_it() -> None:
    distances = []
    for coefficient in (1e-9, 1.0):
        nets, settings = started(kl_coefficient=coefficient)
        batch = play(nets, labeled=False, seed=1)
        a = advantage_signal(nets.critic, batch, settings).advantages
        m_steps = [refine(nets.policy, batch, a, settings) for _ in range(5)]
        assert m_steps[0].drift.base_kl == 0.0  # fresh adapters are the base
        distances.append(m_steps[-1].drift.base_kl)
    assert distances[1] < distances[0] / 2


def test_the_kl_does_not_depend_on_micro_batches() -> None:
    updates = []
    for tokens in (10_000, 30):
        nets, settings = started(warm_up=2, kl_coefficient=1.0, tokens_per_microbatch=tokens)
        batch = random_batch(labeled=False)
        with torch.no_grad():
            for p in nets.policy.optimiser.parameters():
                p += 0.05
        nothing = torch.zeros_like(batch.mask)
        updates.append(refine(nets.policy, batch, nothing, settings).updates)
    assert updates[0].loss > 0.01
    assert updates[1].loss == pytest.approx(updates[0].loss, rel=1e-4)
    assert updates[1].grad_norm == pytest.approx(updates[0].grad_norm, rel=1e-4)
