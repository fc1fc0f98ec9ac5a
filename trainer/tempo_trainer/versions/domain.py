"""Tell whether the users' questions look like the labeled ones, from their texts alone.

A gain on labeled questions says nothing about questions of another kind. Texts are compared by
their runs of two and three characters, so that the comparison needs no model and works in each
language. It sees only differences of wording: labels of another subject in the same kind of
sentences pass.
"""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_TEXTS = 200  # of each side; the comparison takes the product of both
MAX_CHARACTERS = 2_000
RUNS = (2, 3)
COLUMNS = 32_768  # runs share them by their hash, which bounds the memory
MOST_COMMON = 0.5  # share of all texts beyond which a run is a template's, and says nothing
NEAREST = 3  # the neighbour that counts, so that a label's own paraphrases do not
LEAST_OWN = 0.1  # labeled texts that are less like each other cannot be compared with others

Runs = Counter[int]
"""Counts of a text's runs by column."""


def likeness(asked: Sequence[str], labeled: Sequence[str]) -> float:
    """Return how like the labeled texts the asked ones are, as a share of their own likeness.

    The likeness of two texts is the cosine of their runs, weighted by log(texts / texts with the
    run). That of a text to others is the third largest. The result is the median over asked texts
    divided by the median over labeled texts, each compared with the other labeled ones: 1 if users
    ask such questions, near 0 if they never do. It is 1 where nothing can be said.
    """
    if len(labeled) <= NEAREST or not asked:
        return 1.0
    rows = [_runs(text) for text in [*asked[:MAX_TEXTS], *labeled[:MAX_TEXTS]]]
    vectors = _weighted(rows)
    ours = vectors[len(asked[:MAX_TEXTS]) :]
    own = ours @ ours.T
    np.fill_diagonal(own, 0)
    own_likeness = _median_nearest(own)
    if own_likeness < LEAST_OWN:
        return 1.0
    other = vectors[: len(asked[:MAX_TEXTS])] @ ours.T
    return min(1.0, _median_nearest(other) / own_likeness)


def _median_nearest(cosines: NDArray[np.floating]) -> float:
    """Return the median over rows of the NEAREST-largest cosine."""
    return float(np.median(np.sort(cosines, axis=1)[:, -NEAREST]))


def _runs(text: str) -> Runs:
    plain = " ".join(text[:MAX_CHARACTERS].casefold().split())
    runs = (plain[i : i + n] for n in RUNS for i in range(len(plain) - n + 1))
    return Counter(zlib.crc32(run.encode()) % COLUMNS for run in runs)


def _weighted(rows: Sequence[Runs]) -> NDArray[np.floating]:
    """Return one vector of length 1, or 0, for each text."""
    times = np.zeros((len(rows), COLUMNS), dtype=np.float32)
    for vector, row in zip(times, rows, strict=True):
        for column, count in row.items():
            vector[column] = count
    texts_with = (times > 0).sum(0)
    weights = np.log(len(rows) / np.maximum(texts_with, 1))
    weights[texts_with > MOST_COMMON * len(rows)] = 0
    vectors = np.log1p(times) * weights
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9))
