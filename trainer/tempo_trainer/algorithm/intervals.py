"""Means with their uncertainty: Student's t over units that are independent of each other.

The unit is a question where one policy is judged, and a seed where several runs are. Responses to
one question depend on each other, so they are never the unit.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over units, with its lower and upper bound.

    The bounds are not numbers where there are fewer than two units.
    """

    mean: float
    low: float
    high: float


@cache
def t_quantile(tail: float, freedom: int) -> float:
    """Return the value that a t-distributed variable exceeds with probability `tail`."""
    return float(stats.t.ppf(1 - tail, freedom))


def standard_error(values: Array) -> float:
    """Return σ / √n of one value per unit, σ unbiased; not a number for fewer than two units."""
    n = len(values)
    return float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan


def t_interval(values: Array, *, tail: float) -> Interval:
    """Return the mean of one value per unit, with bounds at `tail` beyond each of them.

    0.05 gives two one-sided 95 % bounds, 0.025 a two-sided 95 % interval.
    """
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    mean = float(values.mean())
    reach = (
        t_quantile(tail, len(values) - 1) * standard_error(values) if len(values) > 1 else math.nan
    )
    return Interval(mean, mean - reach, mean + reach)
