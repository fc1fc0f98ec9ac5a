"""One iteration on a bandit: it learns with a right critic, and refuses to with a wrong one."""

import inspect
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tempo_trainer import clock
from tempo_trainer.algorithm import steps
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import em_step, judge, recalibrate, refine
from tempo_trainer.algorithm.fitness import describe, measure, refuse, suspicions
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.algorithm.reports import EMReport, Fitness, Signal
from tempo_trainer.settings import TrainerSettings

LEARNING = {"policy_learning_rate": 0.02, "critic_learning_rate": 0.01}


WARM_UP = 20


def started(*, warm_up: int = WARM_UP, **changed: Any) -> tuple[Networks, TrainerSettings]:
    """Return networks whose critic has been warmed up."""
    settings = tiny.settings(**(LEARNING | changed))
    nets = Networks(tiny.model(), settings)
    nets.load_state_dict(warmed_up(warm_up))
    return nets, settings


@cache
def warmed_up(steps: int) -> dict[str, Any]:
    settings = tiny.settings(**LEARNING)
    nets = Networks(tiny.model(), settings)
    for seed in range(steps):
        recalibrate(nets.critic, [tiny.play(nets, labeled=True, seed=seed)], settings)
    return nets.state_dict()


def iterate(nets: Networks, settings: TrainerSettings, *, seed: int = 100) -> EMReport:
    return em_step(
        nets,
        labeled=[tiny.play(nets, labeled=True, seed=seed)],
        unlabeled=tiny.play(nets, labeled=False, seed=seed + 1),
        held_out=tiny.play(nets, labeled=True, seed=seed + 2),
        settings=settings,
    )


def everything(nets: Networks) -> list[torch.Tensor]:
    """Return every weight and every moment of both optimisers."""
    state = nets.state_dict()
    moments = [
        tensor
        for optimiser in state["optimisers"].values()
        for values in optimiser["state"].values()
        for tensor in values.values()
    ]
    return [*state["weights"].values(), *moments]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def spoiled(batch: Batch, name: str) -> Batch:
    tensor = getattr(batch, name).clone()
    tensor[0] = math.nan
    return replace(batch, **{name: tensor})


def test_em_step_reads_like_the_algorithm() -> None:
    source = inspect.getsource(em_step)
    assert source.index("recalibrate(critic") < source.index("refine(policy")
    assert len(source.splitlines()) <= 25
    assert "eq. 6" in source
    assert "eq. 12" in source


def test_a_right_critic_raises_the_chance_of_a_right_response() -> None:
    nets, settings = started()
    before = tiny.chance_of_right(nets)
    reports = [iterate(nets, settings, seed=100 + 10 * step) for step in range(6)]
    assert all(report.refined for report in reports)
    assert reports[0].fitness.auroc > 0.9
    assert tiny.chance_of_right(nets) > before + 0.2


def test_a_flipped_reward_lowers_it() -> None:
    nets, settings = started(reward_sign=-1, fitness_auroc=0.0, labeled_in_policy=False)
    before = tiny.chance_of_right(nets)
    for step in range(6):
        iterate(nets, settings, seed=100 + 10 * step)
    assert tiny.chance_of_right(nets) < before - 0.2


@pytest.mark.parametrize(
    "changed",
    [
        {"order": "release"},
        {"labeled_in_policy": False},
        {"whiten_scope": "per_domain"},
        {"minibatches": 4},
        {"tokens_per_microbatch": 100},
        {"tokens_per_microbatch": 100, "minibatches": 2},
        {"estimator": "em", "value_clip": 0.1, "critic_keeps_zero_variance": False},
        {"estimator": "em_gae", "whiten_shift_unlabeled": False, "advantage_clamp": 2.0},
        {
            **{"policy_ratio": "token", "clip_low": 0.2, "clip_high": 0.28, "minibatches": 2},
            **{"kl_coefficient": 0.001, "importance_cap": 0.0},
        },
    ],
    ids=str,
)
def test_every_variant_learns(changed: dict[str, Any]) -> None:
    nets, settings = started(**changed)
    before = tiny.chance_of_right(nets)
    reports = [iterate(nets, settings, seed=100 + 10 * step) for step in range(2)]
    assert all(report.refined for report in reports)
    assert tiny.chance_of_right(nets) > before + 0.05


def test_an_unfit_critic_refuses_the_m_step() -> None:
    nets, settings = started(fitness_auroc=1.0, warm_up=0)
    policy = [p.clone() for p in nets.policy.parameters()]
    report = iterate(nets, settings)
    assert not report.refined
    assert report.refusal.startswith("critic unfit: held-out AUROC ")
    assert report.e_step.steps == settings.critic_epochs
    assert same(policy, nets.policy.parameters())


def test_advantages_that_point_the_wrong_way_refuse_the_m_step() -> None:
    a, settings = torch.zeros(1, 1), tiny.settings()
    signal = Signal(a, 0.0, 0.0, 0.1)
    told = refuse(Fitness(0.9, 0.1, 0.1, 0.5, advantage_cosine=-0.01), signal, settings)
    assert "cosine with the true ones is -0.010 on held-out questions, below 0.000" in told
    assert refuse(Fitness(0.9, 0.1, 0.1, 0.5, advantage_cosine=0.01), signal, settings) == ""
    by_response = tiny.settings(estimator="em")
    assert refuse(Fitness(0.9, 0.1, 0.1, 0.5, advantage_cosine=-0.01), signal, by_response) == ""


@pytest.mark.parametrize("right", [True, False])
def test_fitness_is_unknown_when_held_out_outcomes_are_all_alike(right: bool) -> None:
    nets, settings = started(warm_up=1)
    batch = tiny.play(nets, labeled=True, seed=0)
    report = em_step(
        nets,
        labeled=[batch],
        unlabeled=tiny.play(nets, labeled=False, seed=1),
        held_out=batch.select((batch.outcome > 0) == right),
        settings=settings,
    )
    share, wanted = ("100%", "harder") if right else ("0%", "easier")
    assert report.refusal == (
        f"critic's fitness unknown: {share} of the held-out responses are right;"
        f" upload {wanted} questions"
    )
    assert "e_step/auroc" not in report.metrics()


def test_a_flat_critic_refuses_the_m_step() -> None:
    fit, settings = Fitness(0.9, 0.1, 0.1, 0.5, 0.9), tiny.settings()
    a = torch.zeros(1, 1)
    assert "critic flat" in refuse(fit, Signal(a, 0.0, 0.0, 0.019), settings)
    assert "critic flat" in refuse(fit, Signal(a, 0.0, 0.0, math.nan), settings)
    assert refuse(fit, Signal(a, 0.0, 0.0, 0.021), settings) == ""


@pytest.mark.fault(
    12, "a loss or gradient that is no number", promise="the step is discarded and counted"
)
def test_a_spoiled_e_step_is_discarded_and_counted() -> None:
    nets, settings = started(warm_up=2)
    before = everything(nets)
    batch = spoiled(tiny.play(nets, labeled=True, seed=0), "outcome")
    updates = recalibrate(nets.critic, [batch], settings)
    assert updates.discarded == updates.steps == settings.critic_epochs
    assert same(before, everything(nets))
    good = recalibrate(nets.critic, [tiny.play(nets, labeled=True, seed=0)], settings)
    assert good.discarded == 0
    assert not same(before, everything(nets))


@pytest.mark.fault(
    12, "a loss or gradient that is no number", promise="the step is discarded and counted"
)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_spoiled_m_step_is_discarded_and_counted(minibatches: int) -> None:
    nets, settings = started(warm_up=2, minibatches=minibatches)
    batch = tiny.play(nets, labeled=False, seed=0)
    a = judge(nets.critic, batch, settings).advantages
    refine(nets.policy, batch, a, settings)
    before = everything(nets)
    everywhere = replace(batch, sampled_logprobs=torch.full_like(a, math.nan))
    made = refine(nets.policy, everywhere, a, settings)
    assert made.updates.discarded == made.updates.steps == minibatches
    assert same(before, everything(nets))


@pytest.mark.fault(
    12, "a loss or gradient that is no number", promise="the step is discarded and counted"
)
def test_an_infinite_loss_is_discarded() -> None:
    nets, settings = started(warm_up=1)
    batch = tiny.play(nets, labeled=False, seed=0)
    before = everything(nets)
    a = torch.full_like(batch.mask, math.inf)
    assert refine(nets.policy, batch, a, settings).updates.discarded == 1
    assert same(before, everything(nets))


def test_on_policy_nothing_is_clipped_and_the_sampler_agrees() -> None:
    nets, settings = started(warm_up=5)
    metrics = iterate(nets, settings).metrics()
    assert metrics["m_step/approx_kl"] == metrics["m_step/clip_fraction"] == 0.0
    assert metrics["m_step/sampler_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["m_step/capped_fraction"] == 0.0


def test_later_minibatches_are_off_policy() -> None:
    nets, settings = started(warm_up=5, minibatches=4, fitness_auroc=0.0, fitness_cosine=-1.0)
    metrics = iterate(nets, settings).metrics()
    assert metrics["m_step/steps"] == 4
    assert metrics["m_step/approx_kl"] > 0
    assert metrics["m_step/clip_fraction"] > 0


def test_recalibration_replays_old_batches_and_ends_with_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nets, settings = started(warm_up=0, replay_batches=2, critic_epochs=2)
    batches = [tiny.play(nets, labeled=True, seed=seed, n=seed + 2) for seed in range(4)]
    seen: list[int] = []
    fit = steps.fit
    monkeypatch.setattr(
        steps, "fit", lambda critic, b, *rest: (seen.append(len(b)), fit(critic, b, *rest))[1]
    )
    assert recalibrate(nets.critic, batches, settings).steps == 6
    newest_last = [len(batches[2]), len(batches[1]), len(batches[0])]
    assert seen == newest_last * 2


def test_the_critic_never_learns_from_unlabeled_rows() -> None:
    results = []
    for with_unlabeled in (False, True):
        nets, settings = started(warm_up=1)
        batch = tiny.play(nets, labeled=True, seed=0)
        if with_unlabeled:
            batch = batch.concatenate(tiny.play(nets, labeled=False, seed=1))
        recalibrate(nets.critic, [batch], settings)
        results.append(everything(nets))
    assert same(*results)


def test_metrics_are_named_by_concern_and_finite() -> None:
    nets, settings = started(
        warm_up=5, fitness_auroc=0.0, fitness_cosine=-1.0, labeled_in_policy=False
    )
    metrics = iterate(nets, settings).metrics()
    assert {name.split("/")[0] for name in metrics} == {"e_step", "m_step"}
    assert {"e_step/loss", "e_step/auroc", "m_step/loss", "m_step/approx_kl"} <= metrics.keys()
    assert metrics["m_step/labeled_rows"] == 0
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in metrics.values())


def test_fitness_is_measured_on_what_the_critic_says_last() -> None:
    nets, settings = started()
    fitness = measure(nets.critic, tiny.play(nets, labeled=True, seed=50), settings)
    assert fitness.auroc > 0.9
    assert fitness.brier < 0.2
    assert fitness.advantage_cosine > 0.5


def test_cutting_a_step_into_micro_batches_changes_neither_loss_nor_gradient() -> None:
    found = []
    for budget in (10_000, 100, 1):
        nets, settings = started(warm_up=2, tokens_per_microbatch=budget, critic_epochs=1)
        unlabeled = tiny.play(nets, labeled=False, seed=1, n=8)
        a = judge(nets.critic, unlabeled, settings).advantages
        m_step = refine(nets.policy, unlabeled, a, settings).updates
        labeled = tiny.play(nets, labeled=True, seed=0, n=8)
        e_step = recalibrate(nets.critic, [labeled], settings)
        found.append([e_step.loss, e_step.grad_norm, m_step.loss, m_step.grad_norm])
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-3, abs=1e-5)


def test_labeled_rows_reach_the_policy_only_when_asked() -> None:
    nets, settings = started(labeled_in_policy=True)
    assert iterate(nets, settings).metrics()["m_step/labeled_rows"] == 64


def test_every_metric_is_explained_in_the_readme() -> None:
    nets, settings = started()
    readme = (Path(__file__).parents[4] / "trainer" / "README.md").read_text()
    assert [name for name in iterate(nets, settings).metrics() if f"`{name}`" not in readme] == []


def test_truncated_responses_teach_the_critic_and_not_the_policy() -> None:
    nets, settings = started(mask_truncated=True)
    batch = tiny.play(nets, labeled=False, seed=1)
    cut = torch.arange(len(batch)) % 3 == 0
    batch = replace(batch, truncated=cut)
    found = judge(nets.critic, batch, settings)
    rest = judge(nets.critic, batch.select(~cut), settings)
    assert not found.advantages[cut].any()
    torch.testing.assert_close(found.advantages[~cut], rest.advantages)
    assert found.advantage_std == pytest.approx(rest.advantage_std)
    nothing = judge(nets.critic, replace(batch, truncated=cut | True), settings)
    assert "critic flat" in refuse(Fitness(0.9, 0.1, 0.1, 0.5, 0.9), nothing, settings)
    labeled = replace(tiny.play(nets, labeled=True, seed=2), truncated=cut | True)
    assert recalibrate(nets.critic, [labeled], settings).loss > 0


@pytest.mark.parametrize("keeps", [True, False])
def test_the_critic_learns_from_groups_that_are_all_alike_unless_told_not_to(keeps: bool) -> None:
    nets, settings = started(warm_up=2, critic_keeps_zero_variance=keeps)
    batch = tiny.play(nets, labeled=True, seed=0)
    alike = replace(batch, outcome=torch.where(batch.group == 0, 1.0, batch.outcome))
    results = []
    for given in (alike, alike.select(alike.group != 0)):
        nets.load_state_dict(warmed_up(2))
        recalibrate(nets.critic, [given], settings)
        results.append(everything(nets))
    assert same(*results) is not keeps
    only = alike.select(alike.group == 0)
    assert recalibrate(nets.critic, [only], settings).steps == (settings.critic_epochs * keeps)


def test_a_value_clip_holds_back_the_mean_value() -> None:
    moved = []
    for clip in (0.0, 0.01):
        nets, settings = started(warm_up=0, critic_epochs=10, value_clip=clip)
        batch = tiny.play(nets, labeled=True, seed=0)
        batch = replace(batch, outcome=torch.ones(len(batch)))
        recalibrate(nets.critic, [batch], settings)
        moved.append(float(nets.critic.values(batch).detach()[batch.mask > 0].mean()))
    assert moved[0] > 0.1
    assert 0 < moved[1] < moved[0] / 2


def test_a_kl_to_the_base_holds_the_policy_near_it() -> None:
    distances = []
    for coefficient in (1e-9, 1.0):
        nets, settings = started(kl_coefficient=coefficient)
        batch = tiny.play(nets, labeled=False, seed=1)
        a = judge(nets.critic, batch, settings).advantages
        made = [refine(nets.policy, batch, a, settings) for _ in range(5)]
        assert made[0].shift.base_kl == 0.0  # fresh adapters are the base
        distances.append(made[-1].shift.base_kl)
    assert distances[1] < distances[0] / 2


def test_the_kl_does_not_depend_on_micro_batches() -> None:
    found = []
    for budget in (10_000, 30):
        nets, settings = started(warm_up=2, kl_coefficient=1.0, tokens_per_microbatch=budget)
        batch = tiny.random_batch(labeled=False)
        nothing = torch.zeros_like(batch.mask)
        with torch.no_grad():
            for p in nets.policy.parameters():
                p += 0.05
        found.append(refine(nets.policy, batch, nothing, settings).updates)
    assert found[0].loss > 0.01
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-4)
    assert found[1].grad_norm == pytest.approx(found[0].grad_norm, rel=1e-4)


def test_the_critic_is_described_on_unlabeled_rows_only() -> None:
    values = torch.tensor([[0.0, 0.5, 0.0], [0.1, 0.2, 1.5], [0.3, 0.0, 0.0], [-9.0, 0.0, 0.0]])
    batch = tiny.random_batch(rows=4, labeled=False)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    cut, known = torch.tensor([False, True, False, True]), torch.tensor([False] * 3 + [True])
    found = describe(values, replace(batch, mask=mask, truncated=cut, labeled=known))
    assert found is not None
    assert found.value_stopped == pytest.approx(0.4)
    assert found.value_truncated == pytest.approx(1.5)
    assert found.value_outside == found.truncated_share == pytest.approx(1 / 3)
    assert found.value_std == pytest.approx(0.5249, abs=1e-4)
    assert found.length_correlation == pytest.approx(0.9333, abs=1e-4)
    assert describe(values, replace(batch, mask=mask, labeled=known | True)) is None


SOUND = {
    "m_step/reward": 0.1,
    "e_step/accuracy": 0.5,
    "e_step/brier": 0.2,
    "m_step/length_correlation": 0.1,
    "m_step/value_stopped": 0.2,
    "m_step/value_truncated": -0.5,
}


@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({}, ""),
        (
            {"m_step/reward": 0.5},
            "unlabeled values rose from 0.10 to 0.50 and held-out accuracy did not",
        ),
        ({"m_step/reward": 0.5, "e_step/accuracy": 0.6}, ""),
        ({"e_step/brier": 0.24}, "Brier score rose from 0.200 to 0.240"),
        ({"m_step/length_correlation": -0.6}, "went from +0.10 to -0.60"),
        ({"m_step/value_truncated": 0.5}, "truncated responses are worth 0.50"),
    ],
    ids=str,
)
def test_signs_of_a_policy_that_pleases_the_critic(changed: dict[str, float], sign: str) -> None:
    found = suspicions(SOUND, SOUND | changed)
    assert sign in found
    assert bool(found) == bool(sign)
    assert suspicions({}, {}) == ""


def test_the_time_of_an_iteration_is_split_and_taken_once() -> None:
    nets, settings = started(
        warm_up=1, fitness_auroc=0.0, fitness_cosine=-1.0, minimum_advantage_std=0.0
    )
    clock.take()
    iterate(nets, settings)
    taken = clock.take()
    assert set(taken) == {f"time/{name}_seconds" for name in ("e_step", "values", "m_step")}
    assert all(seconds > 0 for seconds in taken.values())
    assert clock.take() == {}
