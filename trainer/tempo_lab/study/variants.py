"""An iteration of TEMPO with a change: two critics, pass@k advantages, or a flipped reward."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tempo_lab.study.critics import half
from tempo_lab.study.lab import Lab
from tempo_lab.study.rewards import pass_at_k_advantages
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.em import advantage_signal, policy_batch, recalibrate, refine
from tempo_trainer.algorithm.fitness import measure, refusal_reason
from tempo_trainer.algorithm.reports import AdvantageSignal, EMReport, Updates


def variant_step(
    lab: Lab, *, labeled: Sequence[Batch], unlabeled: Batch, held_out: Batch
) -> EMReport:
    """Make the product's iteration with the changes of the run; its order is always the paper's."""
    settings = lab.step_settings
    e_step = recalibrate_all(lab, labeled)
    batch = policy_batch(labeled, unlabeled, settings)
    signal = advantage_signal(lab.critic, batch, settings)
    fitness = measure(lab.critic, held_out, settings)
    if refusal := refusal_reason(fitness, signal, settings):
        return EMReport(e_step, fitness, signal, refusal=refusal)
    advantages = _advantages(batch, signal, lab.spec.pass_k)
    m_step = refine(lab.networks.policy, batch, advantages, settings)
    return EMReport(e_step, fitness, signal, m_step)


def recalibrate_all(lab: Lab, batches: Sequence[Batch]) -> Updates:
    """Fit each critic, two of them to half of the responses to each question; return the first's.

    Only labeled responses count; `batches` are newest first.
    """
    if len(lab.critics) == 1:
        return recalibrate(lab.critics[0], batches, lab.settings)
    updates = [
        recalibrate(critic, [half(batch, part) for batch in batches], lab.settings)
        for part, critic in enumerate(lab.critics)
    ]
    return updates[0]


def _advantages(batch: Batch, signal: AdvantageSignal, pass_k: int) -> Tensor:
    """Return the advantages (B, T); with `pass_k` labeled rows have those of pass@k."""
    if not pass_k:
        return signal.advantages
    per_row = pass_at_k_advantages(batch.outcome, batch.group, k=pass_k)  # (B,)
    return torch.where(batch.labeled[:, None], per_row[:, None] * batch.mask, signal.advantages)
