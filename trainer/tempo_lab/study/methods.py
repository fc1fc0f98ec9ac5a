"""The methods that a study compares: each is one iteration, from rollouts to a policy update.

    method       rollouts of            reward                           advantage
    tempo        labeled, unlabeled     critic, recalibrated             R − V(x, y<t), whitened
    frozen       unlabeled              critic as the warm-up left it    R − V(x, y<t), whitened
    ttrl         unlabeled              answer of the majority           group-normalised
    empo         unlabeled              share of the answer's cluster    group-normalised
    supervised   labeled                outcome                          group-normalised
    fine-tuning  none                   the references are responses     1 for each token
    one-label    one labeled question   outcome                          group-normalised
    format       unlabeled              1 where an answer can be read    group-normalised
    dissent      unlabeled              −√(p / (1 − p)) for dissenters   the same, on some tokens
    trapo        labeled, unlabeled     outcome, answer of the majority  group-normalised, masked
    random       unlabeled              uniform in (−1, 1)               group-normalised
    oracle       unlabeled              hidden outcome (the ceiling)     group-normalised

All but `fine-tuning` sample as many responses in an iteration, to `Lab.budget` questions. Those
that tempo spends on labels and on the held-out check are more unlabeled ones in the other methods.
`fine-tuning` samples none, and learns from the solutions of `Lab.budget` labeled questions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tempo_lab.study.dissent import dissent_advantages, surprising
from tempo_lab.study.lab import Lab
from tempo_lab.study.rewards import cluster_share, majority
from tempo_lab.study.sampling import seed_of
from tempo_lab.study.trapo import correlated_questions, remember
from tempo_lab.study.variants import recalibrate_all, variant_step
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import advantage_signal, em_step, refine
from tempo_trainer.algorithm.objective import group_advantages
from tempo_trainer.algorithm.reports import figures
from tempo_trainer.jobs.warm_up import HELD_OUT_BATCHES

Figures = dict[str, Any]
TRAPO_WARM_UP = 8 / 15
"""Share of a run in which TraPO learns from labels alone: 8 of 15 epochs, as in its code."""


def warm_up(lab: Lab) -> None:
    """Calibrate a new critic, as the worker does before its first M-step.

    Held-out rollouts of the end of the warm-up measure the critic in the first iterations, too.
    """
    settings = lab.settings
    for _ in range(settings.warm_up_steps):
        recalibrate_all(lab, [lab.labeled(settings.warm_up_questions)])
    lab.window = [lab.labeled(HELD_OUT_BATCHES * settings.held_out_per_step, deck="held_out")]


def tempo(lab: Lab) -> Figures:
    """Make the product's iteration, or the run's variant of it.

    There is an E-step in each `recalibrate_every`-th one.
    """
    settings = lab.settings
    every = lab.spec.recalibrate_every
    labeled: list[Batch] = []
    if every and lab.iteration % every == 0:
        labeled = [lab.labeled(settings.labeled_per_step), *lab.replay]
        lab.replay = labeled[: settings.replay_batches]
    held_out = lab.held_out_window()
    unlabeled = lab.batch(lab.sample_next("unlabeled", settings.unlabeled_per_step))
    if lab.spec.is_product:
        report = em_step(
            lab.networks, labeled=labeled, unlabeled=unlabeled, held_out=held_out, settings=settings
        )
    else:
        report = variant_step(lab, labeled=labeled, unlabeled=unlabeled, held_out=held_out)
    return report.metrics() | ({"refusal": report.refusal} if report.refusal else {})


def frozen(lab: Lab) -> Figures:
    """Refine by the critic of the warm-up, without a check of its fitness."""
    batch = lab.batch(lab.sample_next("unlabeled", lab.budget))
    signal = advantage_signal(lab.networks.critic, batch, lab.settings)
    return figures("m_step", signal, signal.value_stats) | _refine(lab, batch, signal.advantages)


def by_answers(reward: Callable[[Sequence[Sequence[str]]], Tensor], lab: Lab) -> Figures:
    """Reward each response by the answers of its group."""
    responses = lab.sample_next("unlabeled", lab.budget)
    return _refine_by(lab, lab.batch(responses), reward(lab.verifiers.answers(responses)))


def dissent(lab: Lab) -> Figures:
    """Lower the chance of answers against the vote, and teach nothing else."""
    responses = lab.sample_next("unlabeled", lab.budget)
    batch = lab.batch(responses)
    per_row = dissent_advantages(lab.verifiers.answers(responses))  # (B,)
    if not per_row.any():
        return {"refusal": "no response dissents from a vote of its question"}
    return _refine(lab, batch, per_row[:, None] * surprising(lab.networks, batch, lab.settings))


def trapo(lab: Lab) -> Figures:
    """Learn from labels, and from votes on questions whose pass rates move like the labeled ones'.

    As in TraPO, both kinds are visited equally often, and the first part of a run learns from
    labels alone.
    """
    count = round(lab.budget * lab.labeled_share)
    labeled = lab.labeled(count)
    responses = lab.sample_next("unlabeled", lab.budget - count)
    unlabeled = lab.batch(responses)
    votes = majority(lab.verifiers.answers(responses))  # (B,)
    remember(lab.memory, "labeled", labeled, (labeled.outcome > 0).float())
    remember(lab.memory, "unlabeled", unlabeled, votes)
    is_warm = lab.iteration >= TRAPO_WARM_UP * lab.spec.iterations
    chosen = correlated_questions(lab.memory) if is_warm else set()
    is_kept = torch.tensor([question in chosen for question in unlabeled.question.tolist()])
    batch = unlabeled.concatenate(labeled)
    reward = torch.cat([votes, (labeled.outcome > 0).float()])
    mask = torch.cat([is_kept, torch.ones(len(labeled), dtype=torch.bool)])
    kept = {"m_step/kept": is_kept.float().mean().item()}
    return kept | _refine_by(lab, batch, reward, mask)


def supervised(lab: Lab) -> Figures:
    """Learn from labeled questions alone, by their outcomes (GRPO)."""
    batch = lab.labeled(lab.budget)
    return _refine_by(lab, batch, batch.outcome)


def fine_tuning(lab: Lab) -> Figures:
    """Learn the solutions by heart: a step of cross-entropy (SFT)."""
    batch = lab.references(lab.budget)
    # The policy did not sample these responses. So they have no importance weights, k3 is no KL on
    # them, and nothing may be clipped.
    own = {"importance_cap": 0.0, "kl_coefficient": 0.0, "minibatches": 1}
    settings = lab.settings.model_copy(update=own)
    return figures(
        "m_step", refine(lab.networks.policy, batch, batch.mask.clone(), settings).updates
    )


def one_label(lab: Lab) -> Figures:
    """Learn from a single labeled question, which can teach little but the form.

    This is the first half of arXiv:2603.12875, which lets votes follow.
    """
    batch = lab.one_labeled(lab.budget * lab.settings.group_size)
    return _refine_by(lab, batch, batch.outcome)


def by_format(lab: Lab) -> Figures:
    """Reward each response in which an answer can be read, right or wrong."""
    responses = lab.sample_next("unlabeled", lab.budget)
    reads = torch.tensor(lab.verifiers.parses(responses), dtype=torch.float32)
    return _refine_by(lab, lab.batch(responses), reads.flatten())


def random_critic(lab: Lab) -> Figures:
    """Reward at random: if this learns anything, the study is wrong."""
    batch = lab.batch(lab.sample_next("unlabeled", lab.budget))
    seed = seed_of(lab.settings.seed, "random", lab.iteration)
    uniform = torch.rand(len(batch), generator=torch.Generator().manual_seed(seed))
    return _refine_by(lab, batch, 2 * uniform - 1)


def oracle(lab: Lab) -> Figures:
    """Reward by the hidden answers. No method can have them: this is the ceiling."""
    responses = lab.sample_next("unlabeled", lab.budget)
    outcomes = lab.verifiers.outcomes(responses, lab.hidden_answers)
    return _refine_by(lab, lab.batch(responses), torch.tensor(outcomes).flatten())


METHODS: dict[str, Callable[[Lab], Figures]] = {
    "tempo": tempo,
    "frozen": frozen,
    "ttrl": partial(by_answers, majority),
    "empo": partial(by_answers, cluster_share),
    "supervised": supervised,
    "fine-tuning": fine_tuning,
    "one-label": one_label,
    "format": by_format,
    "dissent": dissent,
    "trapo": trapo,
    "random": random_critic,
    "oracle": oracle,
}
"""One iteration of each method; it returns the figures of the run's line."""
WITH_CRITIC = {"tempo", "frozen"}
"""Methods whose critic is calibrated in a warm-up and measured."""


def _refine_by(lab: Lab, batch: Batch, reward: Tensor, rows: Tensor | None = None) -> Figures:
    """Refine with one advantage per response; make no step if the rewards of no group differ.

    Only the advantages of `rows`, a bool each, count.
    """
    a = group_advantages(reward, batch.group)  # (B,)
    if rows is not None:
        a = a * rows
    reward_figures = {"m_step/reward": reward.mean().item()}
    if not a.any():
        return reward_figures | {"refusal": "the rewards of each group are all alike"}
    return reward_figures | _refine(lab, batch, a[:, None] * batch.mask)


def _refine(lab: Lab, batch: Batch, a: Tensor) -> Figures:
    m_step = refine(lab.networks.policy, batch, a, lab.settings)
    return figures("m_step", m_step.updates, m_step.drift)
