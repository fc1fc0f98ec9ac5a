"""One iteration on a bandit: it learns with a right critic, and refuses to with a wrong one."""

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import DRAWS, chance_of_right, everything, held_out, iterate, play, same, started

from tempo_trainer import clock
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import advantage_signal, em_step, recalibrate, refine


def spoiled(batch: Batch, name: str) -> Batch:
    """Return a batch in which the first row of a tensor is not a number."""
    tensor = getattr(batch, name).clone()
    tensor[0] = math.nan
    return replace(batch, **{name: tensor})


def test_em_step_reads_like_the_algorithm() -> None:
    source = inspect.getsource(em_step)
    assert source.rindex("recalibrate(networks.critic") < source.index("refine(networks.policy")
    assert "eq. 6" in source
    assert "eq. 12" in source


def test_a_right_critic_raises_the_chance_of_a_right_response() -> None:
    nets, settings = started()
    before = chance_of_right(nets)
    reports = [iterate(nets, settings, seed=100 + 10 * step) for step in range(6)]
    assert all(report.refined for report in reports)
    assert reports[0].fitness.auroc > 0.9
    assert chance_of_right(nets) > before + 0.2


def test_a_flipped_reward_lowers_the_chance_of_a_right_response() -> None:
    nets, settings = started(reward_sign=-1, labeled_in_policy=False)
    before = chance_of_right(nets)
    for step in range(6):
        iterate(nets, settings, seed=100 + 10 * step)
    assert chance_of_right(nets) < before - 0.2


@pytest.mark.parametrize(
    "changed",
    [
        {"order": "reference_code"},
        {"labeled_in_policy": False},
        {"minibatches": 4},
        {"tokens_per_microbatch": 100},
        {"tokens_per_microbatch": 100, "minibatches": 2},
        {"estimator": "em"},
        {
            "clip_low": 0.2,
            "clip_high": 0.28,
            "minibatches": 2,
            "kl_coefficient": 0.001,
            "importance_cap": 0.0,
        },
    ],
    ids=str,
)
def test_every_variant_learns(changed: dict[str, Any]) -> None:
    nets, settings = started(**changed)
    before = chance_of_right(nets)
    reports = [iterate(nets, settings, seed=100 + 10 * step) for step in range(2)]
    assert all(report.refined for report in reports)
    assert chance_of_right(nets) > before + 0.05


@pytest.mark.parametrize("order", ["paper", "reference_code"])
def test_the_order_decides_which_critic_gives_the_advantages(order: str) -> None:
    nets, settings = started(order=order, labeled_in_policy=False)
    labeled = play(nets, labeled=True, seed=100)
    unlabeled = play(nets, labeled=False, seed=101)
    before = advantage_signal(nets.critic, unlabeled, settings).advantages
    report = em_step(
        nets, labeled=[labeled], unlabeled=unlabeled, held_out=labeled, settings=settings
    )
    after = advantage_signal(nets.critic, unlabeled, settings).advantages
    assert not torch.equal(before, after)
    expected = after if order == "paper" else before
    assert torch.equal(report.signal.advantages, expected)


def test_a_critic_that_orders_responses_the_wrong_way_refuses_the_m_step() -> None:
    nets, settings = started(warm_up=0)
    policy = [p.clone() for p in nets.policy.optimiser.parameters()]
    labeled = play(nets, labeled=True, seed=0)
    measured = held_out(nets, seed=2)
    report = em_step(
        nets,
        labeled=[labeled] * 4,
        unlabeled=play(nets, labeled=False, seed=1),
        held_out=replace(measured, outcome=-measured.outcome),
        settings=settings,
    )
    assert not report.refined
    assert report.refusal.startswith("critic unfit: on ")
    assert report.fitness.within_auroc < 0.5
    assert report.e_step.steps == 4 * settings.critic_epochs
    assert same(policy, nets.policy.optimiser.parameters())


def test_without_a_held_out_rollout_no_m_step_is_made() -> None:
    nets, settings = started(warm_up=1)
    batch = play(nets, labeled=True, seed=0)
    report = em_step(nets, labeled=[batch], unlabeled=batch, held_out=None, settings=settings)
    assert report.recalibrated
    assert report.refusal.startswith("critic's fitness unknown: 0 of 0 draws of held-out questions")
    assert "e_step/auroc" not in report.metrics()


@pytest.mark.parametrize("right", [True, False])
def test_fitness_is_unknown_if_held_out_outcomes_are_all_alike(right: bool) -> None:
    nets, settings = started(warm_up=1)
    batch = play(nets, labeled=True, seed=0)
    alike = replace(
        held_out(nets, seed=2), outcome=torch.full((4 * DRAWS * 8,), 1.0 if right else -1.0)
    )
    report = em_step(
        nets,
        labeled=[batch],
        unlabeled=play(nets, labeled=False, seed=1),
        held_out=alike,
        settings=settings,
    )
    share, kind = ("100%", "harder") if right else ("0%", "easier")
    assert report.refusal == (
        "critic's fitness unknown: 0 of 96 draws of held-out questions were answered both right and"
        f" wrong, and 24 are needed; {share} of the responses are right: upload {kind} questions"
    )
    assert "e_step/within_auroc" not in report.metrics()


def test_metrics_are_named_by_concern_and_finite() -> None:
    nets, settings = started(warm_up=5, labeled_in_policy=False)
    metrics = iterate(nets, settings).metrics()
    assert {name.split("/")[0] for name in metrics} == {"e_step", "m_step"}
    assert {
        "e_step/loss",
        "e_step/within_auroc",
        "m_step/loss",
        "m_step/approx_kl",
    } <= metrics.keys()
    assert metrics["m_step/labeled_rows"] == 0
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in metrics.values())


def test_labeled_rows_are_in_the_policys_batch_with_labeled_in_policy() -> None:
    nets, settings = started(labeled_in_policy=True)
    assert iterate(nets, settings).metrics()["m_step/labeled_rows"] == 64


def test_the_seconds_of_an_iteration_are_split_by_phase_and_returned_once() -> None:
    nets, settings = started(warm_up=1, minimum_advantage_std=0.0)
    clock.take()
    iterate(nets, settings)
    sums = clock.take()
    assert set(sums) == {f"time/{name}_seconds" for name in ("e_step", "values", "m_step")}
    assert all(seconds > 0 for seconds in sums.values())
    assert clock.take() == {}


# Steps with a loss or gradient that is not finite -------------------------------------------------


@pytest.mark.fault(
    12,
    "a loss or gradient is not a number",
    promise="the step is discarded and counted; three in a row pause training",
)
def test_an_e_step_that_is_not_finite_is_discarded_and_counted() -> None:
    nets, settings = started(warm_up=2)
    before = everything(nets)
    batch = spoiled(play(nets, labeled=True, seed=0), "outcome")
    updates = recalibrate(nets.critic, [batch], settings)
    assert updates.discarded == updates.steps == settings.critic_epochs
    assert same(before, everything(nets))
    good = recalibrate(nets.critic, [play(nets, labeled=True, seed=0)], settings)
    assert good.discarded == 0
    assert not same(before, everything(nets))


@pytest.mark.fault(
    12,
    "a loss or gradient is not a number",
    promise="the step is discarded and counted; three in a row pause training",
)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_m_step_that_is_not_finite_is_discarded_and_counted(minibatches: int) -> None:
    nets, settings = started(warm_up=2, minibatches=minibatches)
    batch = play(nets, labeled=False, seed=0)
    a = advantage_signal(nets.critic, batch, settings).advantages
    refine(nets.policy, batch, a, settings)
    before = everything(nets)
    everywhere = replace(batch, sampled_logprobs=torch.full_like(a, math.nan))
    m_step = refine(nets.policy, everywhere, a, settings)
    assert m_step.updates.discarded == m_step.updates.steps == minibatches
    assert same(before, everything(nets))


@pytest.mark.fault(
    12,
    "a loss or gradient is not a number",
    promise="the step is discarded and counted; three in a row pause training",
)
def test_an_infinite_loss_is_discarded() -> None:
    nets, settings = started(warm_up=1)
    batch = play(nets, labeled=False, seed=0)
    before = everything(nets)
    a = torch.full_like(batch.mask, math.inf)
    assert refine(nets.policy, batch, a, settings).updates.discarded == 1
    assert same(before, everything(nets))
