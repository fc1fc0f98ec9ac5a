"""Measure the critic on held-out rollouts and decide if an M-step may use it.

A critic that is not retrained gets as bad as guessing when the policy changes, and then the policy
gets worse. A refused M-step costs one iteration.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from tempo_trainer.algorithm import metrics, objective
from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.networks import Critic
from tempo_trainer.algorithm.reports import AdvantageSignal, Fitness, ValueStats, mean
from tempo_trainer.clock import phase
from tempo_trainer.settings import TOKEN_ESTIMATORS, TrainerSettings

# Changes within a round that are more than noise: of a mean value or a correlation, of the Brier
# score.
RISE = 0.2
BRIER_RISE = 0.03


@phase("values")
def measure(critic: Critic, held_out: Batch, settings: TrainerSettings) -> Fitness:
    """Compare the critic's values with the outcomes of rollouts that it never trains on."""
    values = forward_no_grad(critic.values, held_out, settings.tokens_per_microbatch)  # (B, T)
    outcome = held_out.outcome.numpy()  # (B,)
    mask = held_out.mask
    last = objective.last_values(values, mask).numpy()  # (B,)
    return Fitness(
        auroc=metrics.auroc(last, outcome),
        brier=metrics.brier(last, outcome),
        ece=metrics.ece(last, outcome),
        explained_variance=metrics.explained_variance(last, outcome),
        advantage_cosine=metrics.advantage_cosine(values.numpy(), outcome, mask=mask.numpy()),
        within_auroc=metrics.within_auroc(last, outcome, held_out.group.numpy()),
        accuracy=float((outcome > 0).mean()),
        reliability=metrics.reliability(last, outcome),
    )


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
    if reason := unknown_reason(fitness):
        return f"critic's fitness unknown: {reason}"
    least = settings.fitness_auroc
    if fitness.auroc < least:
        return f"critic unfit: held-out AUROC {fitness.auroc:.3f} is below {least:.3f}"
    cosine = fitness.advantage_cosine
    if settings.estimator in TOKEN_ESTIMATORS and cosine < settings.fitness_cosine:
        return (
            f"critic unfit: its advantages' cosine with the true ones is {cosine:.3f} on held-out"
            f" questions, below {settings.fitness_cosine:.3f}"
        )
    # `not >=` instead of `<`, because a deviation that is not a number must refuse, too.
    least = settings.minimum_advantage_std
    if not signal.advantage_std >= least:
        return f"critic flat: advantages deviate by {signal.advantage_std:.4f}, below {least:.4f}"
    return ""


def unknown_reason(fitness: Fitness) -> str:
    """Return why there is no AUROC; empty if there is one."""
    if not math.isnan(fitness.auroc):
        return ""
    if fitness.accuracy in (0.0, 1.0):
        share = f"{fitness.accuracy:.0%}"
        kind = "harder" if fitness.accuracy else "easier"
        return f"{share} of the held-out responses are right; upload {kind} questions"
    return "the critic's values are not finite"


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
    return f"{'; '.join(signs)}: read some responses before this version is kept"
