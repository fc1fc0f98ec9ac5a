"""Measure whether a critic tells right from wrong responses to one question: numpy only.

A critic that knows only how hard a question is has a good AUROC over all responses, but it cannot
say which of two responses to one question is right. An M-step needs exactly that. So the critic is
measured within each draw, which is a question with the responses that were sampled to it at once. A
draw is "mixed" if it was answered both right and wrong; no other draw has an AUROC.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tempo_trainer.algorithm.intervals import Array, Interval, t_interval

T = TypeVar("T")
Ints = NDArray[np.integer]
MIN_MIXED_DRAWS = 24
"""Below it the bounds are too wide to tell a good critic from a useless one."""
CHANCE = 0.5
TIE = 0.1
"""Values that differ by less, in standard deviations, after the length is taken away are ties. A
critic that learned the length alone leaves only the error of the fit, which is not knowledge."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Responses to held-out questions, as arrays of one entry per response."""

    values: Array
    outcomes: Array
    """-1 is wrong, +1 is right."""
    question: Ints
    """The draws of one question share this number."""
    draw: Ints
    """The responses of one draw share this number."""
    length: Array
    """Response tokens, at least 1."""
    truncated: NDArray[np.bool_]

    def select(self, rows: NDArray[np.bool_]) -> "Rows":
        """Return some of the rows."""
        return Rows(
            self.values[rows],
            self.outcomes[rows],
            self.question[rows],
            self.draw[rows],
            self.length[rows],
            self.truncated[rows],
        )


@dataclass(frozen=True, slots=True)
class Discrimination:
    """AUROCs within a question, each with two one-sided 95 % bounds over questions."""

    auroc: Interval
    beyond_length: Interval
    """The same after everything in the values is taken away that length and truncation explain."""
    mixed_draws: int
    mixed_questions: int

    @property
    def proven(self) -> bool:
        """True if the critic certainly knows right from wrong, and not by the length alone."""
        enough = self.mixed_draws >= MIN_MIXED_DRAWS
        # A bound that is not a number must not pass.
        return enough and self.auroc.low > CHANCE and self.beyond_length.low > CHANCE


def discrimination(rows: Rows) -> Discrimination:
    """Measure a critic on held-out responses. Values that are not finite give no AUROC."""
    draw = _numbered(rows.draw)
    right = np.bincount(draw, rows.outcomes > 0)
    mixed = (right > 0) & (right < np.bincount(draw))
    rows = rows.select(mixed[draw])
    draw = _numbered(rows.draw)
    unknown = Interval(math.nan, math.nan, math.nan)
    auroc = unknown
    beyond = unknown
    if len(draw) and np.isfinite(rows.values).all():
        auroc = _over_questions(aurocs(rows.values, rows.outcomes, draw), rows.question, draw)
        rest = beyond_length(rows.values, draw, rows.length, rows.truncated)
        beyond = _over_questions(aurocs(rest, rows.outcomes, draw), rows.question, draw)
    return Discrimination(auroc, beyond, int(mixed.sum()), len(np.unique(rows.question)))


def aurocs(values: Array, outcomes: Array, draw: Ints) -> Array:
    """Return the AUROC of each mixed draw; `draw` numbers the draws from 0 without a gap.

    It is (Σ rank of the right − n₁ (n₁ + 1) / 2) / (n₁ n₀) with n₁ right and n₀ wrong responses.
    """
    right = (outcomes > 0).astype(float)
    n = np.bincount(draw)
    n1 = np.bincount(draw, right)
    rank_sum = np.bincount(draw, right * ranks_within(values, draw))
    return np.asarray((rank_sum - n1 * (n1 + 1) / 2) / (n1 * (n - n1)))


def beyond_length(values: Array, draw: Ints, length: Array, truncated: NDArray[np.bool_]) -> Array:
    """Return what length and truncation do not explain of the values' ranks within a draw.

    It is the residual of a least-squares fit with an intercept for each draw, in steps of TIE.
    """
    regressors = _length_regressors(draw, length, truncated)
    x = np.stack([_without_mean(row, draw) for row in regressors], axis=1)  # (rows, regressors)
    y = _without_mean(_centred_ranks(values, draw), draw)
    rest = y - x @ np.linalg.lstsq(x, y)[0]
    step = TIE * float(y.std())
    return np.asarray(np.round(rest / step)) if step > 0 else np.zeros_like(y)


def _length_regressors(draw: Ints, length: Array, truncated: NDArray[np.bool_]) -> list[Array]:
    """Return functions of the length whose sum fits what a critic of length alone may say.

    The simulation `tempo_lab.simulation.critics` chose them: with fewer, such a critic is proven in
    more than 10 % of cases.
    """
    everywhere = _centred_ranks(length, np.zeros_like(draw))
    here = _centred_ranks(length, draw)  # ranks of values depend on the other responses of the draw
    log = np.log(length)
    log = (log - log.mean()) / max(float(log.std()), 1e-9)
    # The rank of a value stops rising where its length is far from all others of the draw.
    far = np.tanh(_without_mean(log, draw))
    # Squares, because a critic may like a length in the middle.
    return [everywhere, everywhere**2, here, here**2, log, far, truncated.astype(float)]


def ranks_within(values: Array, draw: Ints) -> Array:
    """Return the rank of each value in its draw, from 1; equal values share their mean rank."""
    order = np.lexsort((values, draw))
    new_draw = np.diff(draw[order], prepend=-1) != 0
    starts = new_draw | (np.diff(values[order], prepend=np.nan) != 0)  # of runs of equal values
    first = np.flatnonzero(starts)
    end = np.append(first[1:], len(order))
    place = (first + end - 1)[np.cumsum(starts) - 1] / 2
    start_of_draw = np.flatnonzero(new_draw)[np.cumsum(new_draw) - 1]
    ranks = np.empty(len(order))
    ranks[order] = place - start_of_draw + 1
    return ranks


def count_mixed(draws: Iterable[int], outcomes: Iterable[float]) -> int:
    """Return how many draws were answered both right and wrong."""
    kinds: dict[int, set[bool]] = defaultdict(set)
    for draw, outcome in zip(draws, outcomes, strict=True):
        kinds[draw].add(outcome > 0)
    return sum(len(kind) == 2 for kind in kinds.values())


def newest(parts: Sequence[T], mixed_draws: Callable[[T], int]) -> Sequence[T]:
    """Return the last parts that together have MIN_MIXED_DRAWS mixed draws, or all parts.

    Older responses are of an older policy. They are used only while the newer ones are too few.
    """
    count = 0
    for start in reversed(range(len(parts))):
        count += mixed_draws(parts[start])
        if count >= MIN_MIXED_DRAWS:
            return parts[start:]
    return parts


def _over_questions(figures: Array, question: Ints, draw: Ints) -> Interval:
    """Average the draws of each question, then take an interval over questions.

    Draws of one question depend on each other, so they must not count as independent ones.
    """
    of_draw = np.zeros(len(figures), dtype=question.dtype)
    of_draw[draw] = question
    owner = _numbered(of_draw)
    return t_interval(np.bincount(owner, figures) / np.bincount(owner), tail=0.05)


def _centred_ranks(x: Array, draw: Ints) -> Array:
    """Return ranks within each draw, scaled to the range from -1 to 1."""
    return np.asarray((2 * ranks_within(x, draw) - 1) / np.bincount(draw)[draw] - 1)


def _without_mean(x: Array, draw: Ints) -> Array:
    """Return x minus its mean in the draw."""
    return np.asarray(x - (np.bincount(draw, x) / np.bincount(draw))[draw])


def _numbered(labels: Ints) -> Ints:
    """Return the labels as numbers from 0 without a gap."""
    return np.unique(labels, return_inverse=True)[1]
