"""Figures about held-out questions, and the gate that they open: numpy only, no model.

Outcomes are -1 or +1, a value V is read as the probability (V + 1) / 2. A figure that the data
cannot give (one class only, no question) is not a number.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tempo_trainer.settings import TrainerSettings

Array = NDArray[np.floating]

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500


def auroc(values: Array, outcomes: Array) -> float:
    """P(V of a right response > V of a wrong one), a tie counting one half."""
    right, wrong = values[outcomes > 0], values[outcomes <= 0]
    if not len(right) or not len(wrong) or not np.isfinite(values).all():
        return math.nan
    wrong = np.sort(wrong)
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.mean() / (2 * len(wrong)))


def brier(values: Array, outcomes: Array) -> float:
    """Mean of (p − y)², with y = 1 for a right response, else 0."""
    return float((((values + 1) / 2 - (outcomes > 0)) ** 2).mean())


def within_auroc(values: Array, outcomes: Array, groups: Array) -> float:
    """Mean AUROC within the questions that were answered both right and wrong."""
    found = [auroc(values[groups == g], outcomes[groups == g]) for g in np.unique(groups)]
    known = [figure for figure in found if not math.isnan(figure)]
    return float(np.mean(known)) if known else math.nan


def reliability(
    values: Array, outcomes: Array, *, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean p, share of right responses, and responses, for each of `bins` equal widths of p."""
    if not np.isfinite(values).all():
        return []
    p, right = np.clip((values + 1) / 2, 0, 1), outcomes > 0
    index = np.minimum((p * bins).astype(int), bins - 1)
    return [
        (float(p[at].mean()), float(right[at].mean()), int(at.sum()))
        for at in (index == i for i in np.unique(index))
    ]


def ece(values: Array, outcomes: Array, *, bins: int = 10) -> float:
    """Expected calibration error: mean |p − y| over the reliability curve, by responses."""
    curve = reliability(values, outcomes, bins=bins)
    return sum(n * abs(p - y) for p, y, n in curve) / len(values) if curve else math.nan


def correlation(x: Array, y: Array) -> float:
    """Pearson's correlation; not a number where one side is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    return float((x * y).sum()) / norm if norm > 0 else math.nan


def explained_variance(values: Array, outcomes: Array) -> float:
    """1 − Var(I − V) / Var(I): 1 for a perfect critic, 0 for a constant one."""
    variance = outcomes.var()
    return float(1 - (outcomes - values).var() / variance) if variance > 0 else math.nan


def advantage_cosine(values: Array, outcomes: Array, *, mask: Array) -> float:
    """cos(V_L − V_t, I − V_t) over sampled tokens: what the M-step would use against the truth."""
    last = values[np.arange(len(values)), mask.sum(1).astype(int) - 1]
    used, true = (last[:, None] - values) * mask, (outcomes[:, None] - values) * mask
    norm = math.sqrt(float((used**2).sum()) * float((true**2).sum()))
    return float((used * true).sum()) / norm if norm > 0 else math.nan


def avg_at_n(outcomes: Array) -> Array:
    """Share of right responses per question; `outcomes` is (questions, n)."""
    return np.asarray((outcomes > 0).mean(1))


def pass_at_k(outcomes: Array, k: int) -> Array:
    """1 − C(n − c, k) / C(n, k) per question with c of n right: without bias, not by resampling."""
    n = outcomes.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} with {n} responses a question; choose 1 to {n}")
    right = (outcomes > 0).sum(1)
    return np.array([1 - math.comb(n - int(c), k) / math.comb(n, k) for c in right])


def answer_entropy(answers: Sequence[str]) -> float:
    """−Σ (n_j / n) ln(n_j / n) over the distinct answers to one question, in nats."""
    shares = np.array(list(Counter(answers).values())) / len(answers)
    return float(-(shares * np.log(shares)).sum()) + 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over questions with its lower and upper bound."""

    mean: float
    low: float
    high: float


def paired_bootstrap(differences: Array, *, seed: int = 0, tail: float = 0.05) -> Interval:
    """Resample questions, not responses: `differences` holds one paired difference per question.

    `tail` is the share beyond each bound: two one-sided 95 % bounds, or with 0.025 one interval.
    """
    generator, n = np.random.default_rng(seed), len(differences)
    shape, pieces = (RESAMPLES_AT_ONCE, n), range(RESAMPLES // RESAMPLES_AT_ONCE)
    resamples = (differences[generator.integers(n, size=shape)] for _ in pieces)
    means = np.concatenate([resample.mean(1) for resample in resamples])
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(differences.mean()), float(low), float(high))


def detectable_difference(differences: Array) -> float:
    """The true difference whose lower 95 % bound is above zero in four cases of five."""
    if len(differences) < 2:
        return math.inf
    return float(2.486 * differences.std(ddof=1) / math.sqrt(len(differences)))  # z.95 + z.80


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
