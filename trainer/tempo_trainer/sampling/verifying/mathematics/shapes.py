"""The shapes of answers: a number, a list, an interval, an equation, a matrix, or words."""

from dataclasses import dataclass

from tempo_trainer.sampling.verifying.mathematics.expressions import Tree
from tempo_trainer.sampling.verifying.mathematics.quantities import Quantity


@dataclass(frozen=True, slots=True)
class Words:
    """A text that is no mathematics; it is equal to the same text only."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers: a list or a set, or in order a tuple, a row of blanks, or a vector."""

    items: tuple["Readings", ...]
    is_ordered: bool
    bracket: str = ""
    """The kind of its brackets; `,` for 12,345, which is rather a number."""
    names: tuple[str, ...] = ()
    """The variables that the items are the values of, where all have one."""


@dataclass(frozen=True, slots=True)
class Span:
    """An interval; an end without a tree is infinite."""

    low: Tree | None
    has_low: bool
    high: Tree | None
    has_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals."""

    spans: tuple[Span, ...]
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Equation:
    """`left relation right`, where more than a name stands on the left."""

    left: Tree
    relation: str
    right: Tree


@dataclass(frozen=True, slots=True)
class Congruence:
    """A number modulo another."""

    value: Tree
    modulus: int


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base: 1010_2."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple["Readings", ...], ...]
    is_determinant: bool


@dataclass(frozen=True, slots=True)
class Named:
    """The value of a variable or a function: x = 5."""

    name: str
    value: "Shape"


Shape = (
    Words | Quantity | Items | Region | Equation | Congruence | Based | Matrix | Named
)  # fmt: skip
Readings = tuple[Shape, ...]
