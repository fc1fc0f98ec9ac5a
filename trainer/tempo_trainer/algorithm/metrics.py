"""Figures about held-out questions: numpy only, no model.

Outcomes are -1 (wrong) or +1 (right). A value V means the probability p = (V + 1) / 2. A figure
that the data cannot give (one class only, no question) is not a number.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def auroc(values: Array, outcomes: Array) -> float:
    """P(V of a right response > V of a wrong one), a tie counting one half."""
    right = values[outcomes > 0]
    wrong = values[outcomes <= 0]
    if not len(right) or not len(wrong) or not np.isfinite(values).all():
        return math.nan
    wrong = np.sort(wrong)
    # Twice the number of wrong values below each right one; a tie counts once, so one half.
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.mean() / (2 * len(wrong)))


def brier(values: Array, outcomes: Array) -> float:
    """Mean of (p − y)², with y = 1 for a right response, else 0."""
    return float((((values + 1) / 2 - (outcomes > 0)) ** 2).mean())


def reliability(
    values: Array, outcomes: Array, *, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean p, share of right responses, and responses, for each of `bins` equal widths of p."""
    if not np.isfinite(values).all():
        return []
    p = np.clip((values + 1) / 2, 0, 1)
    right = outcomes > 0
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
    """Pearson's correlation; not a number if one side is constant."""
    x = x - x.mean()
    y = y - y.mean()
    norm = math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    return float((x * y).sum()) / norm if norm > 0 else math.nan


def explained_variance(values: Array, outcomes: Array) -> float:
    """1 − Var(I − V) / Var(I): 1 for a perfect critic, 0 for a constant one."""
    variance = outcomes.var()
    return float(1 - (outcomes - values).var() / variance) if variance > 0 else math.nan


def avg_at_n(outcomes: Array) -> Array:
    """Share of right responses per question; `outcomes` is (questions, n)."""
    return np.asarray((outcomes > 0).mean(1))


def pass_at_k(outcomes: Array, k: int) -> Array:
    """1 − C(n − c, k) / C(n, k) per question with c of n right: exact and unbiased, no resampling.

    `outcomes` is (questions, n).
    """
    n = outcomes.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} with {n} responses a question; choose 1 to {n}")
    by_count = np.array([1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)])
    return np.asarray(by_count[(outcomes > 0).sum(1)])


def answer_entropy(answers: Sequence[str]) -> float:
    """−Σ (n_j / n) ln(n_j / n) over the distinct answers to one question, in nats."""
    shares = np.array(list(Counter(answers).values())) / len(answers)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def majority_right(answers: Sequence[str], outcomes: Sequence[float]) -> float:
    """Return 1 if the most common answer is right, else 0; of equally common ones, their share.

    An empty answer neither votes nor is right.
    """
    counts = Counter(answer for answer in answers if answer)
    most = max(counts.values(), default=0)
    outcome_of = dict(zip(answers, outcomes, strict=True))
    winners = [outcome_of[answer] > 0 for answer, count in counts.items() if count == most]
    return sum(winners) / len(winners) if winners else 0.0
