"""Reports of an iteration: frozen values whose field names are the keys of the metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from torch import Tensor

from tempo_trainer.algorithm.optimiser import Update

Curve = Sequence[tuple[float, float, int]]
"""Mean p, share of right responses, and responses, for each tenth of p that occurs."""


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
        applied = [update for update in updates if update.applied]
        return cls(
            loss=mean([update.loss for update in applied]),
            grad_norm=mean([update.grad_norm for update in applied]),
            steps=len(updates),
            discarded=len(updates) - len(applied),
        )


@dataclass(frozen=True, slots=True)
class Fitness:
    """The critic against the outcomes of held-out rollouts, on which it never trains.

    A draw is a question with the responses that were sampled to it at once. It is mixed if they
    were both right and wrong. `_low` is a one-sided 95 % bound over questions.
    """

    auroc: float
    brier: float
    ece: float
    explained_variance: float
    accuracy: float
    within_auroc: float = math.nan
    within_auroc_low: float = math.nan
    within_auroc_beyond_length: float = math.nan
    within_auroc_beyond_length_low: float = math.nan
    draws: int = 0
    mixed_draws: int = 0
    mixed_questions: int = 0
    truncated_share: float = math.nan
    reliability: Curve = ()
    reliability_by_length: Mapping[str, Curve] = field(default_factory=dict)
    reliability_by_truncation: Mapping[str, Curve] = field(default_factory=dict)

    def curves(self) -> dict[str, Any]:
        """Return the reliability curves under the names of the metrics."""
        return {
            "e_step/reliability": self.reliability,
            "e_step/reliability_by_length": self.reliability_by_length,
            "e_step/reliability_by_truncation": self.reliability_by_truncation,
        }


@dataclass(frozen=True, slots=True)
class ValueStats:
    """The critic's last values on unlabeled responses; a policy that hacks the critic shows here.

    The correlation is that of a response's value with its length.
    """

    value_std: float
    value_outside: float
    value_stopped: float
    value_truncated: float
    truncated_share: float
    length_correlation: float


@dataclass(frozen=True, slots=True)
class AdvantageSignal:
    """The signal that the policy learns from; mean and deviation are of raw unlabeled advantages.

    `advantages` (B, T) are as the estimator returns them. `reward` is the mean over unlabeled
    responses.
    """

    advantages: Tensor
    reward: float
    advantage_mean: float
    advantage_std: float
    labeled_rows: int = 0
    value_stats: ValueStats | None = None


@dataclass(frozen=True, slots=True)
class PolicyDrift:
    """Distances of the policy from its old self and from the base, and of the trainer from vLLM."""

    approx_kl: float
    clip_fraction: float
    sampler_kl: float
    capped_fraction: float
    base_kl: float
    first_ratio_gap: float = 0.0
    """Largest |π_θ/π_old − 1| of a token. In the first minibatch both have the same weights, so a
    gap there is between two passes over one batch: 0 on a CPU, perhaps not on a GPU."""

    @classmethod
    def of(cls, drifts: Sequence["PolicyDrift"]) -> Self:
        """Return the mean of each figure over minibatches, and the first one's gap."""
        means = {f.name: mean([getattr(d, f.name) for d in drifts]) for f in fields(cls)}
        return cls(**means | {"first_ratio_gap": drifts[0].first_ratio_gap})


@dataclass(frozen=True, slots=True)
class MStep:
    """The optimiser steps of a refinement, and how far they moved the policy."""

    updates: Updates
    drift: PolicyDrift


@dataclass(frozen=True, slots=True)
class EMReport:
    """One iteration; `refusal` is the reason why no M-step was made, or empty.

    `signal` is None if there was no unlabeled response.
    """

    e_step: Updates
    fitness: Fitness
    signal: AdvantageSignal | None = None
    m_step: MStep | None = None
    refusal: str = ""

    @property
    def recalibrated(self) -> bool:
        """True if an E-step was made."""
        return self.e_step.steps > 0

    @property
    def refined(self) -> bool:
        """True if the policy has changed."""
        if self.m_step is None:
            return False
        return self.m_step.updates.discarded < self.m_step.updates.steps

    def metrics(self) -> dict[str, float]:
        """Return the figures by concern; one that is not finite is left out, as JSON has none."""
        policy: list[Any] = [self.signal, self.signal and self.signal.value_stats]
        if self.m_step:
            policy += [self.m_step.updates, self.m_step.drift]
        return figures("e_step", self.e_step, self.fitness) | figures("m_step", *policy)


def figures(step: str, *reports: Any) -> dict[str, float]:
    """Return the finite numbers of reports under the names of the metrics; None is skipped.

    `step` is `e_step` or `m_step`.
    """
    numbers = ((f.name, getattr(r, f.name)) for r in reports if r for f in fields(r))
    return {
        f"{step}/{name}": value
        for name, value in numbers
        if isinstance(value, int | float) and math.isfinite(value)
    }


def mean(figures: Sequence[float]) -> float:
    """Return the mean, or not a number if there is none."""
    return sum(figures) / len(figures) if figures else math.nan
