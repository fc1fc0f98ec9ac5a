"""Tell whether the users' questions are of the domain of the labeled ones, from their texts alone.

A gain on labeled questions says nothing about questions of another kind. Texts are compared by
their runs of three characters, so that the comparison needs no model and works in each language.
"""

from collections.abc import Sequence

import numpy as np

MAX_TEXTS = 200  # of each side; the comparison takes the product of both
MAX_CHARACTERS = 2_000


def likeness(asked: Sequence[str], labeled: Sequence[str]) -> float:
    """Return how like the labeled texts the asked ones are, as a share of their own likeness.

    The likeness of a text to others is the largest share of its character triples that one of them
    has. The result is the median over asked texts divided by the median over labeled texts, each
    compared with the other labeled ones: 1 if users ask such questions, near 0 if they never do.
    It is 1 where one side has no text.
    """
    labeled_triples = [_triples(text) for text in labeled[:MAX_TEXTS]]
    asked_triples = [_triples(text) for text in asked[:MAX_TEXTS]]
    if len(labeled_triples) < 2 or not asked_triples:
        return 1.0
    own = [
        _largest_share(triples, labeled_triples[:i] + labeled_triples[i + 1 :])
        for i, triples in enumerate(labeled_triples)
    ]
    other = [_largest_share(triples, labeled_triples) for triples in asked_triples]
    ratio = float(np.median(other)) / max(float(np.median(own)), 1e-9)
    return min(1.0, ratio)


def _triples(text: str) -> frozenset[str]:
    plain = " ".join(text[:MAX_CHARACTERS].casefold().split())
    return frozenset(plain[i : i + 3] for i in range(max(1, len(plain) - 2)))


def _largest_share(triples: frozenset[str], others: Sequence[frozenset[str]]) -> float:
    return max(len(triples & other) / len(triples) for other in others)
