"""The gate: may a candidate serve? numpy only, no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tempo_trainer.algorithm.metrics import (
    Array,
    Interval,
    answer_entropy,
    avg_at_n,
    detectable_difference,
    paired_bootstrap,
    pass_at_k,
)
from tempo_trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Answered:
    """One adapter's responses to the held-out questions, in the same order for all adapters."""

    outcomes: Array
    """(questions, n), -1 or +1."""
    answers: Sequence[Sequence[str]]
    """What was extracted from each response, for the entropy."""
    mean_tokens: float = 0.0
    """Mean length of a response."""

    @classmethod
    def joined(cls, parts: Sequence["Answered"]) -> Self:
        """Return the responses to all the parts' questions."""
        sizes = [len(part.outcomes) for part in parts]
        return cls(
            outcomes=np.concatenate([part.outcomes for part in parts]),
            answers=[row for part in parts for row in part.answers],
            mean_tokens=float(np.average([part.mean_tokens for part in parts], weights=sizes)),
        )

    @property
    def entropy(self) -> float:
        """Mean answer entropy over questions, in nats."""
        return float(np.mean([answer_entropy(row) for row in self.answers]))

    def summary(self) -> dict[str, float]:
        """Return the figures of these responses alone."""
        return {
            "avg_at_k": float(avg_at_n(self.outcomes).mean()),
            "pass_at_k": float(pass_at_k(self.outcomes, self.outcomes.shape[1]).mean()),
            "entropy": self.entropy,
            "mean_tokens": self.mean_tokens,
        }


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether the candidate may serve, why, and every figure that the decision rests on."""

    promote: bool
    reason: str
    base_avg_at_k: float
    serving_avg_at_k: float
    candidate_avg_at_k: float
    against_serving: Interval
    against_base: Interval
    pass_at_k_against_base: Interval
    entropy_ratio: float
    questions: int
    k: int
    detectable_difference: float
    samples: dict[str, dict[str, float]] = field(default_factory=dict)
    """The figures of base, serving version and candidate, each by itself."""
    held_out: str = ""
    """Which of the held-out questions were asked."""
    cost: dict[str, float] = field(default_factory=dict)
    """What the answers took: responses (questions times k times adapters) and seconds."""


def gate(
    base: Answered,
    serving: Answered,
    candidate: Answered,
    *,
    first: bool,
    settings: TrainerSettings,
) -> GateDecision:
    """Decide on a candidate by paired differences over questions.

    It must not lose `gate_delta` of avg@k to the serving adapter, must beat the base (the first
    one must only not lose `gate_delta` to it), must not lose `gate_pass_k_margin` of pass@k to the
    base, and must keep `gate_entropy_ratio` of the base's answer entropy. The lower 95 % bounds
    decide.
    """
    delta, seed = settings.gate_delta, settings.seed
    k = candidate.outcomes.shape[1]
    averages = [avg_at_n(answered.outcomes) for answered in (base, serving, candidate)]
    reached = pass_at_k(candidate.outcomes, k) - pass_at_k(base.outcomes, k)
    to_serving = paired_bootstrap(averages[2] - averages[1], seed=seed)
    to_base = paired_bootstrap(averages[2] - averages[0], seed=seed)
    to_pass = paired_bootstrap(reached, seed=seed)
    kept = candidate.entropy / base.entropy if base.entropy > 0 else 1.0
    least = settings.gate_entropy_ratio
    faults = [
        _fault("avg@k against the serving adapter", to_serving.low, -delta),
        _fault("avg@k against the base", to_base.low, -delta if first else 0.0),
        _fault("pass@k against the base", to_pass.low, -settings.gate_pass_k_margin),
        _fault("answer entropy as a share of the base's", kept, least, allowed=True),
    ]
    reason = "; ".join(fault for fault in faults if fault)
    return GateDecision(
        promote=not reason,
        reason=reason or "every bound holds",
        base_avg_at_k=float(averages[0].mean()),
        serving_avg_at_k=float(averages[1].mean()),
        candidate_avg_at_k=float(averages[2].mean()),
        against_serving=to_serving,
        against_base=to_base,
        pass_at_k_against_base=to_pass,
        entropy_ratio=kept,
        questions=len(candidate.outcomes),
        k=k,
        detectable_difference=detectable_difference(averages[2] - averages[1]),
        samples={
            "base": base.summary(),
            "serving": serving.summary(),
            "candidate": candidate.summary(),
        },
    )


def _fault(what: str, found: float, bound: float, *, allowed: bool = False) -> str:
    """Return a sentence unless `found` is above the bound (or, if allowed, on it)."""
    if found > bound or (allowed and found == bound):
        return ""
    return f"{what}: {found:+.3f} is not above {bound:+.3f}"
