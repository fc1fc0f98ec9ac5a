"""What an iteration tells: frozen values whose field names are the metric keys."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor

from tempo_trainer.algorithm.optimiser import Update


@dataclass(frozen=True, slots=True)
class Updates:
    """The optimiser steps of one E- or M-step; means are over the steps that were applied."""

    loss: float
    grad_norm: float
    steps: int
    discarded: int

    @classmethod
    def of(cls, updates: Sequence[Update]) -> Self:
        """Summarise optimiser steps."""
        good = [update for update in updates if update.applied]
        return cls(
            loss=mean([update.loss for update in good]),
            grad_norm=mean([update.grad_norm for update in good]),
            steps=len(updates),
            discarded=len(updates) - len(good),
        )


@dataclass(frozen=True, slots=True)
class Fitness:
    """How well the critic judges rollouts of labeled questions that it never trains on."""

    auroc: float
    brier: float
    ece: float
    explained_variance: float
    advantage_cosine: float
    within_auroc: float = math.nan
    accuracy: float = math.nan
    reliability: Sequence[tuple[float, float, int]] = ()
    """Mean p, share of right responses, and responses, for each tenth of p that occurs."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The critic's last values on unlabeled responses: where a policy that hacks it shows."""

    value_std: float
    value_outside: float
    value_stopped: float
    value_truncated: float
    truncated_share: float
    length_correlation: float


@dataclass(frozen=True, slots=True)
class Signal:
    """What the policy is to learn from; mean and deviation are of raw unlabeled advantages."""

    advantages: Tensor  # (B, T) whitened
    reward: float
    advantage_mean: float
    advantage_std: float
    labeled_rows: int = 0
    verdicts: Verdicts | None = None


@dataclass(frozen=True, slots=True)
class Shift:
    """How far the policy was from its old self, and the trainer from the sampler."""

    approx_kl: float
    clip_fraction: float
    sampler_kl: float
    capped_fraction: float
    base_kl: float

    @classmethod
    def average(cls, shifts: Sequence["Shift"]) -> Self:
        """Return the mean of each figure over minibatches."""
        return cls(**{f.name: mean([getattr(s, f.name) for s in shifts]) for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class MStep:
    """What refinement did."""

    updates: Updates
    shift: Shift


@dataclass(frozen=True, slots=True)
class EMReport:
    """One iteration; `refusal` says why no M-step was made."""

    e_step: Updates
    fitness: Fitness
    signal: Signal
    m_step: MStep | None = None
    refusal: str = ""

    @property
    def refined(self) -> bool:
        """Whether the policy has changed."""
        if self.m_step is None:
            return False
        return self.m_step.updates.discarded < self.m_step.updates.steps

    def metrics(self) -> dict[str, float]:
        """Return the figures by concern; one that is not finite is left out, as JSON has none."""
        made = (self.m_step.updates, self.m_step.shift) if self.m_step else ()
        policy = figures("m_step", self.signal, self.signal.verdicts, *made)
        return figures("e_step", self.e_step, self.fitness) | policy


def figures(step: str, *parts: Any) -> dict[str, float]:
    """Return the finite numbers of an E- or M-step's reports under the names of the metrics."""
    numbers = ((f.name, getattr(part, f.name)) for part in parts if part for f in fields(part))
    return {
        f"{step}/{name}": value
        for name, value in numbers
        if isinstance(value, int | float) and math.isfinite(value)
    }


def mean(figures: Sequence[float]) -> float:
    """Return the mean, or not a number if there is none."""
    return sum(figures) / len(figures) if figures else math.nan
