"""The methods that a study compares: each is one iteration, from rollouts to a policy update.

    method       rollouts of            reward                           advantage
    tempo        labeled, unlabeled     critic, recalibrated             R − V(x, y<t), whitened
    frozen       unlabeled              critic as the warm-up left it    R − V(x, y<t), whitened
    ttrl         unlabeled              answer of the majority           group-normalised
    empo         unlabeled              share of the answer's cluster    group-normalised
    supervised   labeled                outcome                          group-normalised
    random       unlabeled              uniform in (−1, 1)               group-normalised
    oracle       unlabeled              hidden outcome (the ceiling)     group-normalised

All sample the same number of responses in an iteration, `Lab.budget` questions of them: what tempo
spends on labeled and held-out questions, the others spend on more of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tempo_lab.study.lab import Lab
from tempo_lab.study.rewards import cluster_share, majority
from tempo_lab.study.sampling import seed_of
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import advantage_signal, em_step, recalibrate, refine
from tempo_trainer.algorithm.objective import group_advantages
from tempo_trainer.algorithm.reports import figures

Figures = dict[str, Any]


def warm_up(lab: Lab) -> None:
    """Calibrate a new critic, as the worker does before its first M-step."""
    s = lab.settings
    for _ in range(s.warm_up_steps):
        recalibrate(lab.networks.critic, [lab.labeled(s.warm_up_questions)], s)


def tempo(lab: Lab) -> Figures:
    """Make the product's iteration, with an E-step in each `recalibrate_every`-th."""
    s, every, labeled = lab.settings, lab.recalibrate_every, list[Batch]()
    if every and lab.iteration % every == 0:
        labeled = [lab.labeled(s.labeled_per_step), *lab.replay]
        lab.replay = labeled[: s.replay_batches]
    held_out = lab.judging()
    unlabeled = lab.batch(lab.draw("unlabeled", s.unlabeled_per_step))
    report = em_step(
        lab.networks, labeled=labeled, unlabeled=unlabeled, held_out=held_out, settings=s
    )
    return report.metrics() | ({"refusal": report.refusal} if report.refusal else {})


def frozen(lab: Lab) -> Figures:
    """Refine by the critic of the warm-up, whatever it has come to be worth: no gate."""
    batch = lab.batch(lab.draw("unlabeled", lab.budget))
    signal = advantage_signal(lab.networks.critic, batch, lab.settings)
    return figures("m_step", signal, signal.value_stats) | _refine(lab, batch, signal.advantages)


def by_answers(reward: Callable[[Sequence[Sequence[str]]], Tensor], lab: Lab) -> Figures:
    """Reward each response by what the others of its group answer."""
    drawn = lab.draw("unlabeled", lab.budget)
    return _refine_by(lab, lab.batch(drawn), reward(lab.judge.answers(drawn)))


def supervised(lab: Lab) -> Figures:
    """Learn from labeled questions alone, by their outcomes (GRPO)."""
    batch = lab.labeled(lab.budget)
    return _refine_by(lab, batch, batch.outcome)


def random_critic(lab: Lab) -> Figures:
    """Reward by lot: a harness that is sound learns nothing from it."""
    batch = lab.batch(lab.draw("unlabeled", lab.budget))
    seed = seed_of(lab.settings.seed, "random", lab.iteration)
    lots = torch.rand(len(batch), generator=torch.Generator().manual_seed(seed))
    return _refine_by(lab, batch, 2 * lots - 1)


def oracle(lab: Lab) -> Figures:
    """Reward by the hidden answers: what no method can have, the ceiling."""
    drawn = lab.draw("unlabeled", lab.budget)
    outcomes = torch.tensor(lab.judge.outcomes(drawn, lab.hidden)).flatten()
    return _refine_by(lab, lab.batch(drawn), outcomes)


@dataclass(frozen=True, slots=True)
class Method:
    """One iteration of a method, and whether it has a critic to calibrate and to measure."""

    iterate: Callable[[Lab], Figures]
    critic: bool = False


METHODS = {
    "tempo": Method(tempo, critic=True),
    "frozen": Method(frozen, critic=True),
    "ttrl": Method(partial(by_answers, majority)),
    "empo": Method(partial(by_answers, cluster_share)),
    "supervised": Method(supervised),
    "random": Method(random_critic),
    "oracle": Method(oracle),
}


def _refine_by(lab: Lab, batch: Batch, reward: Tensor) -> Figures:
    """Refine along one advantage per response; no step where no group has a difference."""
    a = group_advantages(reward, batch.group)
    rewarded = {"m_step/reward": reward.mean().item()}
    if not a.any():
        return rewarded | {"refusal": "the rewards of each group are all alike"}
    return rewarded | _refine(lab, batch, a[:, None] * batch.mask)


def _refine(lab: Lab, batch: Batch, a: Tensor) -> Figures:
    m_step = refine(lab.networks.policy, batch, a, lab.settings)
    return figures("m_step", m_step.updates, m_step.drift)
