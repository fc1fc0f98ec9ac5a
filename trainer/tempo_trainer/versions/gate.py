"""The gate: decide whether a candidate may serve users. numpy only, no model."""

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
class Answers:
    """One adapter's answers to the held-out questions, in the same order for all adapters."""

    outcomes: Array
    """(questions, n), -1 or +1."""
    texts: Sequence[Sequence[str]]
    """The answer that the verifier read in each response; the entropy counts them."""
    mean_tokens: float = 0.0
    """Mean length of a response."""

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> Self:
        """Return the answers to the questions of all parts."""
        sizes = [len(part.outcomes) for part in parts]
        return cls(
            outcomes=np.concatenate([part.outcomes for part in parts]),
            texts=[row for part in parts for row in part.texts],
            mean_tokens=float(np.average([part.mean_tokens for part in parts], weights=sizes)),
        )

    @property
    def entropy(self) -> float:
        """Mean answer entropy over questions, in nats."""
        return float(np.mean([answer_entropy(row) for row in self.texts]))

    def summary(self) -> dict[str, float]:
        """Return the figures of these answers alone."""
        return {
            "avg_at_k": float(avg_at_n(self.outcomes).mean()),
            "pass_at_k": float(pass_at_k(self.outcomes, self.outcomes.shape[1]).mean()),
            "entropy": self.entropy,
            "mean_tokens": self.mean_tokens,
        }


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The decision on a candidate, its reason, and every figure behind it."""

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
    """The part of the held-out questions that was asked, in words."""
    cost: dict[str, float] = field(default_factory=dict)
    """The cost of the answers: responses (questions times k times adapters) and seconds."""


def gate(
    base: Answers,
    serving: Answers,
    candidate: Answers,
    *,
    base_serves: bool,
    settings: TrainerSettings,
) -> GateDecision:
    """Decide on a candidate by paired differences over questions.

    The candidate must not lose `gate_delta` of avg@k to the serving version. It must beat the base;
    only while the base serves may it be worse, by less than `gate_delta`. It must not lose
    `gate_pass_k_margin` of pass@k to the base. For these three, the lower 95 % bound decides. It
    must also keep `gate_entropy_ratio` of the base's answer entropy.
    """
    k = candidate.outcomes.shape[1]
    average = avg_at_n(candidate.outcomes)
    over_serving = average - avg_at_n(serving.outcomes)
    over_base = average - avg_at_n(base.outcomes)
    pass_over_base = pass_at_k(candidate.outcomes, k) - pass_at_k(base.outcomes, k)
    against_serving = paired_bootstrap(over_serving, seed=settings.seed)
    against_base = paired_bootstrap(over_base, seed=settings.seed)
    pass_against_base = paired_bootstrap(pass_over_base, seed=settings.seed)
    entropy_ratio = candidate.entropy / base.entropy if base.entropy > 0 else 1.0
    base_bound = -settings.gate_delta if base_serves else 0.0
    faults = [
        _fault("avg@k against the serving adapter", against_serving.low, -settings.gate_delta),
        _fault("avg@k against the base", against_base.low, base_bound),
        _fault("pass@k against the base", pass_against_base.low, -settings.gate_pass_k_margin),
    ]
    if not entropy_ratio >= settings.gate_entropy_ratio:  # a ratio of no number is a fault, too
        name = "answer entropy as a share of the base's"
        faults.append(_fault(name, entropy_ratio, settings.gate_entropy_ratio))
    reason = "; ".join(fault for fault in faults if fault)
    samples = {
        "base": base.summary(),
        "serving": serving.summary(),
        "candidate": candidate.summary(),
    }
    return GateDecision(
        promote=not reason,
        reason=reason or "every bound holds",
        base_avg_at_k=samples["base"]["avg_at_k"],
        serving_avg_at_k=samples["serving"]["avg_at_k"],
        candidate_avg_at_k=samples["candidate"]["avg_at_k"],
        against_serving=against_serving,
        against_base=against_base,
        pass_at_k_against_base=pass_against_base,
        entropy_ratio=entropy_ratio,
        questions=len(candidate.outcomes),
        k=k,
        detectable_difference=detectable_difference(over_serving),
        samples=samples,
    )


def _fault(figure: str, value: float, bound: float) -> str:
    """Return a sentence if the value is not above the bound, else an empty one."""
    return "" if value > bound else f"{figure}: {value:+.3f} is not above {bound:+.3f}"
