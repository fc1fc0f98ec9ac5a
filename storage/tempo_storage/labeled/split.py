"""Decide which labeled questions are held out, so that few labels can prove a gain.

The critic learns from the questions of the split `train`. The gate and the sentinel ask those of
the split `held_out`, which train nothing. A stored example never changes its split, so this module
decides only about new ones:

1. New examples go to `held_out` until that has 32, or half of all where there are fewer than 64.
2. When `held_out` has 32, one in five of the others goes there, too.

A hash behaves like a random number, so the order of hashes decides, and no choice depends on the
order of a file. The examples that rule 2 selects come first in rule 1.
"""

import math
from collections.abc import Collection

MIN_HELD_OUT = 32
"""With fewer held-out questions, nothing is promoted by itself."""
MIN_LABELED = 2 * MIN_HELD_OUT
"""With so many labeled questions, half of them reach MIN_HELD_OUT."""
HELD_OUT_SHARE = 5  # one question in five
# The gain that n held-out questions can show is about this over the square root of n.
GAIN_AT_ONE_QUESTION = 0.8


def assign(hashes: Collection[str], *, train: int, held_out: int) -> dict[str, str]:
    """Return the split of each new example by its content hash: `train` or `held_out`.

    `train` and `held_out` are the numbers of stored examples. No hash may be stored already.
    """
    ranked = sorted(hashes, key=lambda name: (_residue(name), name))
    half = (train + held_out + len(ranked)) // 2
    first = max(min(MIN_HELD_OUT, half) - held_out, 0)
    splits = dict.fromkeys(ranked, "train")
    splits |= dict.fromkeys(ranked[:first], "held_out")
    if held_out + first >= MIN_HELD_OUT:
        splits |= {name: "held_out" for name in ranked if _residue(name) == 0}
    return splits


def missing_labels(train: int, held_out: int) -> int:
    """Return how many labels must be added before a version can be promoted by itself."""
    return max(MIN_LABELED - (train + held_out), MIN_HELD_OUT - held_out, 0)


def smallest_gain(held_out: int) -> float:
    """Return the smallest gain of accuracy, 0 to 1, that so many held-out questions can show."""
    return min(GAIN_AT_ONE_QUESTION / math.sqrt(held_out), 1.0) if held_out else 1.0


def promotion_note(train: int, held_out: int) -> str:
    """Say how many labels are missing before a version is promoted by itself; "" if none is."""
    missing = missing_labels(train, held_out)
    if not missing:
        return ""
    return (
        f"{missing} labels are missing: with fewer than {MIN_HELD_OUT} held-out questions"
        " nothing is promoted by itself"
    )


def _residue(content_hash: str) -> int:
    return int(content_hash[:8], 16) % HELD_OUT_SHARE
