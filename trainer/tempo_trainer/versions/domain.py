"""Tell whether the users' questions look like the labeled ones, from their texts alone.

A gain on labeled questions says nothing about questions of another kind. Texts are compared by
their runs of two and three characters, so that the comparison needs no model and works in each
language. It sees only differences of wording: labels of another subject in the same kind of
sentences pass.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_TEXTS = 200  # of each side; the comparison takes the product of both
MAX_CHARACTERS = 2_000
RUNS = (2, 3)
MOST_COMMON = 0.5  # share of all texts beyond which a run is a template's, and says nothing
NEAREST = 3  # the neighbour that counts, so that a label's own paraphrases do not
LEAST_OWN = 0.1  # labeled texts that are less like each other cannot be compared with others

Runs = Counter[str]


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
    return Counter(plain[i : i + n] for n in RUNS for i in range(len(plain) - n + 1))


def _weighted(rows: Sequence[Runs]) -> NDArray[np.floating]:
    """Return one vector of length 1, or 0, for each text."""
    texts_with = Counter(run for row in rows for run in row)
    columns = {
        run: (column, np.log(len(rows) / count))
        for column, (run, count) in enumerate(texts_with.items())
        if count <= MOST_COMMON * len(rows)
    }
    vectors = np.zeros((len(rows), len(texts_with)), dtype=np.float32)
    for vector, row in zip(vectors, rows, strict=True):
        for run, times in row.items():
            if run in columns:
                column, weight = columns[run]
                vector[column] = (1 + np.log(times)) * weight
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9))
