"""Draw questions so that each comes once before any comes twice, the same way after a restart.

This holds while the list of questions stays the same. A position counts draws, and the list's
length decides the pass and the shuffle: after a question is added or deleted, some may come early.
The list of labeled questions seldom changes, so they are drawn from decks. The list of captured
questions changes all the time, so the ledger counts their draws instead. The questions of a study
never change; it draws all of them from decks.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
DECKS = ("train", "held_out", "unlabeled")


def draw(items: Sequence[T], count: int, *, start: int, seed: int) -> list[T]:
    """Return `count` items from position `start` of an endless deck, shuffled anew each pass.

    The result depends on the arguments alone: a resumed run draws the questions that the killed
    run would have drawn.
    """
    count = min(count, len(items))
    cards: list[T] = []
    while len(cards) < count:
        pass_number, offset = divmod(start + len(cards), len(items))
        shuffled = list(items)
        random.Random(f"{seed}:{pass_number}").shuffle(shuffled)
        cards += shuffled[offset : offset + count - len(cards)]
    return cards


@dataclass(slots=True)
class Decks:
    """The positions in the decks of questions; a checkpoint stores and restores them."""

    drawn: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DECKS, 0))
    """Number of questions drawn from each deck so far."""

    def draw(self, deck: str, items: Sequence[T], count: int, *, seed: int) -> list[T]:
        """Return the next `count` items of a deck; fewer if it holds fewer."""
        cards = draw(items, count, start=self.drawn[deck], seed=seed)
        self.drawn[deck] += len(cards)
        return cards
