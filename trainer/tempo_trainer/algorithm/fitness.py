"""Measure the critic on held-out rollouts and decide if an M-step may use it.

A critic that is not retrained gets as bad as guessing when the policy changes, and then the policy
gets worse. A refused M-step costs one iteration.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tempo_trainer.algorithm import metrics, objective, within
from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.intervals import Array
from tempo_trainer.algorithm.networks import Critic
from tempo_trainer.algorithm.reports import AdvantageSignal, Curve, Fitness, ValueStats, mean
from tempo_trainer.algorithm.within import CHANCE, MIN_MIXED_DRAWS
from tempo_trainer.clock import phase
from tempo_trainer.settings import TrainerSettings

# Changes within a round that are more than noise: of a mean value or a correlation, of the Brier
# score.
RISE = 0.2
BRIER_RISE = 0.03
UNKNOWN = Fitness(math.nan, math.nan, math.nan, math.nan, math.nan)
# Shares of right responses beyond which most questions are answered all right or all wrong.
MANY_RIGHT = 0.75
FEW_RIGHT = 0.25
LARGE_SHARE = 0.5  # of truncated responses: the length limit is the first thing to change


@phase("values")
def measure(critic: Critic, held_out: Batch | None, settings: TrainerSettings) -> Fitness:
    """Compare the critic's values with the outcomes of rollouts that it never trains on.

    Without a rollout nothing is known: all figures are not numbers.
    """
    if held_out is None:
        return UNKNOWN
    values = forward_no_grad(critic.values, held_out, settings.tokens_per_microbatch)  # (B, T)
    last = objective.last_values(values, held_out.mask).numpy()  # (B,)
    return fitness_of(
        within.Rows(
            values=last,
            outcomes=held_out.outcome.numpy(),
            question=held_out.question.numpy(),
            draw=held_out.group.numpy(),
            length=held_out.mask.sum(1).numpy(),
            truncated=held_out.truncated.numpy(),
        )
    )


def fitness_of(rows: within.Rows) -> Fitness:
    """Return the figures of a critic that gave these values to held-out responses."""
    last = rows.values
    outcome = rows.outcomes
    known = within.discrimination(rows)
    return Fitness(
        auroc=metrics.auroc(last, outcome),
        brier=metrics.brier(last, outcome),
        ece=metrics.ece(last, outcome),
        explained_variance=metrics.explained_variance(last, outcome),
        accuracy=float((outcome > 0).mean()),
        within_auroc=known.auroc.mean,
        within_auroc_low=known.auroc.low,
        within_auroc_beyond_length=known.beyond_length.mean,
        within_auroc_beyond_length_low=known.beyond_length.low,
        draws=len(np.unique(rows.draw)),
        mixed_draws=known.mixed_draws,
        mixed_questions=known.mixed_questions,
        truncated_share=float(rows.truncated.mean()),
        reliability=metrics.reliability(last, outcome),
        reliability_by_length=_curves(rows, ("short", "middle", "long"), _thirds(rows.length)),
        reliability_by_truncation=_curves(rows, ("finished", "truncated"), rows.truncated * 1),
    )


def _thirds(length: Array) -> NDArray[np.integer]:
    """Return 0, 1 or 2 for each response: its third by length."""
    return np.searchsorted(np.quantile(length, (1 / 3, 2 / 3)), length)


def _curves(rows: within.Rows, names: Sequence[str], part: NDArray[np.integer]) -> dict[str, Curve]:
    """Return the reliability curve of each part that has a response."""
    masks = {name: part == number for number, name in enumerate(names)}
    return {
        name: metrics.reliability(rows.values[mask], rows.outcomes[mask])
        for name, mask in masks.items()
        if mask.any()
    }


def value_stats(values: Tensor, batch: Batch) -> ValueStats | None:
    """Describe the last values of unlabeled responses; None if there are none."""
    unlabeled = ~batch.labeled.numpy()  # (B,)
    if not unlabeled.any():
        return None
    length = batch.mask.sum(1).numpy()[unlabeled]
    last = objective.last_values(values, batch.mask).numpy()[unlabeled]
    truncated = batch.truncated.numpy()[unlabeled]
    return ValueStats(
        value_std=float(last.std()),
        value_outside=float((abs(last) > 1).mean()),
        value_stopped=mean(last[~truncated].tolist()),
        value_truncated=mean(last[truncated].tolist()),
        truncated_share=float(truncated.mean()),
        length_correlation=metrics.correlation(last, length),
    )


def refusal_reason(fitness: Fitness, signal: AdvantageSignal, settings: TrainerSettings) -> str:
    """Return why the policy must not be refined with this critic; empty if it may be."""
    if reason := unfit_reason(fitness):
        return reason
    # `not >=` instead of `<`, because a deviation that is not a number must refuse, too.
    least = settings.minimum_advantage_std
    if not signal.advantage_std >= least:
        return (
            f"critic flat: advantages deviate by {signal.advantage_std:.4f}, below {least:.4f};"
            " upload more labeled questions, or raise TEMPO_CRITIC_LEARNING_RATE"
        )
    return ""


def unfit_reason(fitness: Fitness) -> str:
    """Return why it is not proven that the critic knows right from wrong; empty if it is."""
    if fitness.draws and not math.isfinite(fitness.brier):
        return (
            "critic's fitness unknown: its values are not finite; cancel the job, or restart the"
            " worker with a lower TEMPO_CRITIC_LEARNING_RATE"
        )
    if fitness.mixed_draws < MIN_MIXED_DRAWS:
        return (
            f"critic's fitness unknown: {fitness.mixed_draws} of {fitness.draws} draws of held-out"
            f" questions were answered both right and wrong, and {MIN_MIXED_DRAWS} are needed;"
            f" {_remedy_for_few_mixed(fitness)}"
        )
    where = f"{fitness.mixed_draws} draws of {fitness.mixed_questions} held-out questions"
    if fitness.mixed_questions < 2:
        return f"critic's fitness unknown: there are {where}; upload more labeled questions"
    if not fitness.within_auroc_low > CHANCE:
        return (
            f"critic unfit: on {where} its AUROC within a question is {fitness.within_auroc:.3f},"
            f" and its lower 95 % bound, {fitness.within_auroc_low:.3f}, is not above {CHANCE};"
            f" {_remedy(fitness)}"
        )
    if not fitness.within_auroc_beyond_length_low > CHANCE:
        return (
            "critic unfit: it may know no more than the length of right responses; without what"
            " length and truncation explain, its AUROC within a question is"
            f" {fitness.within_auroc_beyond_length:.3f} on {where}, and the lower 95 % bound,"
            f" {fitness.within_auroc_beyond_length_low:.3f}, is not above {CHANCE};"
            f" {_remedy(fitness)}"
        )
    return ""


def _remedy_for_few_mixed(fitness: Fitness) -> str:
    """Return what gives more held-out questions that are answered both right and wrong."""
    share = f"{fitness.accuracy:.0%} of the responses are right"
    if fitness.accuracy > MANY_RIGHT:
        return f"{share}: upload harder questions"
    if fitness.accuracy < FEW_RIGHT and fitness.truncated_share > LARGE_SHARE:
        cut = f"{fitness.truncated_share:.0%} are cut at the length limit"
        return f"{share} and {cut}: raise TEMPO_MAX_RESPONSE_TOKENS"
    if fitness.accuracy < FEW_RIGHT:
        return f"{share}: upload easier questions"
    return "upload more labeled questions, or raise TEMPO_HELD_OUT_PER_STEP"


def _remedy(fitness: Fitness) -> str:
    """Return what lets a critic learn more, or lose less."""
    if fitness.truncated_share > LARGE_SHARE:
        share = f"{fitness.truncated_share:.0%}"
        return f"{share} of the responses are cut: raise TEMPO_MAX_RESPONSE_TOKENS"
    return "upload more labeled questions, or lower TEMPO_POLICY_LEARNING_RATE"


def suspicions(first: Mapping[str, float], last: Mapping[str, float]) -> str:
    """Return signs that the policy pleases its critic without being right; empty if there are none.

    `first` and `last` are the metrics of a round's first and last iteration.
    """

    def both(name: str) -> tuple[float, float]:
        return first.get(name, math.nan), last.get(name, math.nan)

    signs = []
    reward, later_reward = both("m_step/reward")
    accuracy, later_accuracy = both("e_step/accuracy")
    if later_reward - reward > RISE and later_accuracy <= accuracy:
        signs.append(
            f"unlabeled values rose from {reward:.2f} to {later_reward:.2f} and held-out accuracy"
            " did not"
        )
    brier, later_brier = both("e_step/brier")
    if later_brier - brier > BRIER_RISE:
        signs.append(f"the held-out Brier score rose from {brier:.3f} to {later_brier:.3f}")
    r, later_r = both("m_step/length_correlation")
    if abs(later_r) - abs(r) > RISE:
        signs.append(f"the correlation of value and length went from {r:+.2f} to {later_r:+.2f}")
    truncated = last.get("m_step/value_truncated", math.nan)
    stopped = last.get("m_step/value_stopped", math.nan)
    if truncated - stopped > RISE:
        signs.append(f"truncated responses are worth {truncated:.2f}, finished ones {stopped:.2f}")
    if not signs:
        return ""
    return f"{'; '.join(signs)}: ask this version some questions before you rely on it"
