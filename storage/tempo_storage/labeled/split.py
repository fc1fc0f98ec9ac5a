"""Decide which labeled questions are held out, so that few labels can prove a gain.

The critic learns from the questions of the split `train`. The gate and the sentinel ask those of
the split `held_out`, which train nothing. A stored example never changes its split, so this module
decides only about new ones. It takes them in the order of their hashes:

1. The first ones go to `held_out` until that has 32, or half of all labeled questions if these are
   fewer than 64.
2. The next ones go to `train` until that has 32, or the other half.
3. One in five of the others goes to `held_out`, and the rest to `train`.

So half of the first 64 labeled questions and one in five of the others are held out, into however
many files they are cut. A hash behaves like a random number, so no choice depends on the order of
a file.
"""

import math
from collections.abc import Collection

MIN_HELD_OUT = 32
"""With fewer held-out questions, nothing is promoted by itself."""
MIN_LABELED = 2 * MIN_HELD_OUT
"""With so many labeled questions, half of them reach MIN_HELD_OUT."""
MAX_ASKED = 512
"""The gate asks no more held-out questions by default (TEMPO_GATE_QUESTIONS)."""
HELD_OUT_SHARE = 5  # one question in five
# The gain that n held-out questions can prove is about this over the square root of n.
GAIN_AT_ONE_QUESTION = 0.8


def assign(hashes: Collection[str], *, train: int, held_out: int) -> dict[str, str]:
    """Return the split of each new example by its content hash: `train` or `held_out`.

    `train` and `held_out` are the numbers of stored examples. No hash may be stored already.
    """
    ranked = sorted(hashes)
    labeled = train + held_out + len(ranked)
    num_held_out = max(min(MIN_HELD_OUT, labeled // 2) - held_out, 0)
    num_train = max(min(MIN_HELD_OUT, labeled - labeled // 2) - train, 0)
    others = ranked[num_held_out + num_train :]
    splits = dict.fromkeys(ranked, "train")
    splits |= dict.fromkeys(ranked[:num_held_out], "held_out")
    splits |= {name: "held_out" for name in others if int(name[:8], 16) % HELD_OUT_SHARE == 0}
    return splits


def missing_labels(train: int, held_out: int) -> int:
    """Return how many labels must be added before a version can be promoted by itself.

    It is the number of new questions with which MIN_HELD_OUT are held out.
    """
    if held_out >= MIN_HELD_OUT:
        return 0
    return max(MIN_LABELED - (train + held_out), MIN_HELD_OUT - held_out)


def smallest_gain(held_out: int) -> float:
    """Return the gain of accuracy, 0 to 1, that is proven in about four of five cases.

    `held_out` is the number of held-out questions. The gate asks at most MAX_ASKED of them.
    """
    if not held_out:
        return 1.0
    return min(GAIN_AT_ONE_QUESTION / math.sqrt(min(held_out, MAX_ASKED)), 1.0)
