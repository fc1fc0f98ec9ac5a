"""Whether a critic may teach: its verdicts on rollouts whose outcomes it has never seen.

The critic trains on these neither now nor later. Left to itself it drifts to chance as the policy
moves, and the policy falls after it; a refused M-step costs one iteration.
"""

import math

from tempo_trainer import evaluate, objective
from tempo_trainer.batch import Batch, read
from tempo_trainer.networks import Critic
from tempo_trainer.reports import Fitness, Signal
from tempo_trainer.settings import TrainerSettings


def measure(critic: Critic, held_out: Batch, settings: TrainerSettings) -> Fitness:
    """Compare the critic's values with the outcomes of rollouts it never trains on."""
    values = read(critic.values, held_out, settings.tokens_per_microbatch)
    outcome, mask = held_out.outcome.numpy(), held_out.mask
    last = objective.last_values(values, mask).numpy()
    return Fitness(
        auroc=evaluate.auroc(last, outcome),
        brier=evaluate.brier(last, outcome),
        ece=evaluate.ece(last, outcome),
        explained_variance=evaluate.explained_variance(last, outcome),
        advantage_cosine=evaluate.advantage_cosine(values.numpy(), outcome, mask=mask.numpy()),
    )


def refuse(fitness: Fitness, signal: Signal, settings: TrainerSettings) -> str:
    """Return why the policy must not be refined with this critic; empty when it may."""
    least, spread = settings.fitness_auroc, settings.minimum_advantage_std
    if math.isnan(fitness.auroc):
        return "critic's fitness unknown: held-out outcomes all alike, or values not finite"
    if fitness.auroc < least:
        return f"critic unfit: held-out AUROC {fitness.auroc:.3f} is below {least:.3f}"
    if not signal.advantage_std >= spread:
        return f"critic flat: advantages deviate by {signal.advantage_std:.4f}, below {spread:.4f}"
    return ""
