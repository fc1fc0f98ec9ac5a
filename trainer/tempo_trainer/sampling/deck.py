"""Draw questions so that each comes once before any comes twice, the same way after a restart."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(items: Sequence[T], count: int, *, start: int, seed: int) -> list[T]:
    """Return `count` items from position `start` of an endless deck, shuffled anew each pass.

    A pure function of its arguments: a resumed run draws what the killed one would have drawn.
    """
    count = min(count, len(items))
    drawn: list[T] = []
    while len(drawn) < count:
        pass_number, offset = divmod(start + len(drawn), len(items))
        shuffled = list(items)
        random.Random(f"{seed}:{pass_number}").shuffle(shuffled)
        drawn += shuffled[offset : offset + count - len(drawn)]
    return drawn
