"""Whether a critic may teach: its verdicts on rollouts whose outcomes it has never seen.

The critic trains on these neither now nor later. Left to itself it drifts to chance as the policy
moves, and the policy falls after it; a refused M-step costs one iteration.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from tempo_trainer.algorithm import metrics, objective
from tempo_trainer.algorithm.batch import Batch, read
from tempo_trainer.algorithm.networks import Critic
from tempo_trainer.algorithm.reports import Fitness, Signal, Verdicts, mean
from tempo_trainer.clock import phase
from tempo_trainer.settings import TrainerSettings

RISE, BRIER_RISE = 0.2, 0.03  # within a round, what is more than noise


@phase("values")
def measure(critic: Critic, held_out: Batch, settings: TrainerSettings) -> Fitness:
    """Compare the critic's values with the outcomes of rollouts it never trains on."""
    values = read(critic.values, held_out, settings.tokens_per_microbatch)
    outcome, mask = held_out.outcome.numpy(), held_out.mask
    last = objective.last_values(values, mask).numpy()
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


def describe(values: Tensor, batch: Batch) -> Verdicts | None:
    """Describe the last values of unlabeled responses; None where there are none."""
    rows, length = ~batch.labeled.numpy(), batch.mask.sum(1).numpy()
    if not rows.any():
        return None
    last = objective.last_values(values, batch.mask).numpy()[rows]
    cut = batch.truncated.numpy()[rows]
    return Verdicts(
        value_std=float(last.std()),
        value_outside=float((abs(last) > 1).mean()),
        value_stopped=mean(last[~cut].tolist()),
        value_truncated=mean(last[cut].tolist()),
        truncated_share=float(cut.mean()),
        length_correlation=metrics.correlation(last, length[rows]),
    )


def refuse(fitness: Fitness, signal: Signal, settings: TrainerSettings) -> str:
    """Return why the policy must not be refined with this critic; empty when it may."""
    least, spread = settings.fitness_auroc, settings.minimum_advantage_std
    if why := unknown(fitness):
        return f"critic's fitness unknown: {why}"
    if fitness.auroc < least:
        return f"critic unfit: held-out AUROC {fitness.auroc:.3f} is below {least:.3f}"
    # `em` compares whole responses: how a value moves within one is nothing to it.
    cosine = math.nan if settings.estimator == "em" else fitness.advantage_cosine
    if cosine < settings.fitness_cosine:
        return (
            f"critic unfit: its advantages' cosine with the true ones is {cosine:.3f} on held-out"
            f" questions, below {settings.fitness_cosine:.3f}"
        )
    if not signal.advantage_std >= spread:
        return f"critic flat: advantages deviate by {signal.advantage_std:.4f}, below {spread:.4f}"
    return ""


def unknown(fitness: Fitness) -> str:
    """Say why there is no AUROC; empty when there is one."""
    if not math.isnan(fitness.auroc):
        return ""
    if fitness.accuracy in (0.0, 1.0):
        share, wanted = fitness.accuracy, "harder" if fitness.accuracy else "easier"
        return f"{share:.0%} of the held-out responses are right; upload {wanted} questions"
    return "the critic's values are not finite"


def suspicions(first: Mapping[str, float], last: Mapping[str, float]) -> str:
    """Say what looks as if the policy had come to please the critic without being right, if so.

    The figures are those of a round's first and last iteration.
    """

    def both(name: str) -> tuple[float, float]:
        return first.get(name, math.nan), last.get(name, math.nan)

    reward, brier, r = map(both, ("m_step/reward", "e_step/brier", "m_step/length_correlation"))
    accuracy, cut = both("e_step/accuracy"), last.get("m_step/value_truncated", math.nan)
    stopped = last.get("m_step/value_stopped", math.nan)
    signs = {
        "unlabeled values rose from {:.2f} to {:.2f} and held-out accuracy did not".format(
            *reward
        ): (reward[1] - reward[0] > RISE and accuracy[1] <= accuracy[0]),
        "the held-out Brier score rose from {:.3f} to {:.3f}".format(*brier): (
            brier[1] - brier[0] > BRIER_RISE
        ),
        "the correlation of value and length went from {:+.2f} to {:+.2f}".format(*r): (
            abs(r[1]) - abs(r[0]) > RISE
        ),
        f"truncated responses are worth {cut:.2f}, finished ones {stopped:.2f}": (
            cut - stopped > RISE
        ),
    }
    found = "; ".join(sign for sign, seen in signs.items() if seen)
    return found and f"{found}: read some responses before this version is kept"
