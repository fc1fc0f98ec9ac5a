"""The shapes of answers: a value, a text, several answers, or a relation."""

from dataclasses import dataclass, field
from itertools import chain

from tempo_trainer.sampling.verifying.mathematics.values import Value


@dataclass(frozen=True, slots=True)
class Text:
    """Words, which are equal to the same words only."""

    text: str
    product: Value | None = field(default=None, compare=False)
    """The product of the letters of `ab`, which may be a word, too."""


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers. Those of a list or a set have no order."""

    items: tuple["Shape", ...]
    kind: str = ","
    """The brackets, as in "(]"; else "," (a list), ";" (a row of blanks), ":", "|" (a vector),
    "1,000" (rather a number), "±", "mod" (a number and its modulus), or "<" or "≤" (an order)."""
    is_interval: bool = False
    """Whether it is an interval or an order and no pair; `(1, 2)` may be an interval or a pair."""


@dataclass(frozen=True, slots=True)
class Related:
    """An equation or an inequality: `sign`, a name of the grammar, relates `difference` to 0."""

    sign: str
    difference: Value | None
    name: str = ""
    value: "Shape | None" = None
    """The value or the interval of the variable `name`; without a name the result of a sum."""


@dataclass(frozen=True, slots=True)
class Either:
    """Readings of one text, each of which may be meant."""

    readings: tuple["Shape", ...]


Shape = Value | Text | Items | Related | Either
NOTHING = Text("∅")


def is_mathematics(shape: Shape) -> bool:
    """Tell whether a shape has no words in it."""
    if isinstance(shape, Items):
        return all(map(is_mathematics, shape.items))
    if isinstance(shape, Related):
        return shape.value is None or is_mathematics(shape.value)
    if isinstance(shape, Either):
        return bool(shape.readings) and is_mathematics(shape.readings[0])
    return not isinstance(shape, Text) or shape.text in ("∅", "…")


def texts_of(shape: Shape) -> list[str]:
    """Return the texts of a shape that is nothing but words, else an empty list."""
    if isinstance(shape, Either):
        texts = [texts_of(one) for one in shape.readings]
        return list(chain.from_iterable(texts)) if all(texts) else []
    return [shape.text] if isinstance(shape, Text) else []
