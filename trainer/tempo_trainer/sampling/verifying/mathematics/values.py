"""Values of expressions, which mpmath computes with 1,000 digits.

An expression is a function of its variables. Nothing is simplified, and all sizes are bounded, so
that no value takes long.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce
from random import Random
from typing import Any

import mpmath

from tempo_storage.answers.units import Unit

DIGITS = 1000
DIGITS_AT_POINT = 100  # of an expression with variables
MORE_DIGITS = 60
MAX_LOGARITHM = 10**12  # of a value
MAX_EXACT = 3_000  # of a factorial, and of the terms of a series
MAX_FACTORIAL = 10**12
POINTS = 3
# Names that mark an expression, beside the names of its variables.
BOTH_SIGNS = "±"
DEGREES = "°"
BARS = "|"
SERIES = "∑"

context = mpmath.mp.clone()
context.dps = DIGITS
_exact_factorial = cache(math.factorial)
Point = Mapping[str, Any]
Compute = Callable[[Point], Any]


@dataclass(frozen=True, slots=True)
class Value:
    """An expression as a function of its variables, and its unit if it has one."""

    compute: Compute
    names: frozenset[str] = frozenset()
    label: str = ""
    r"""The text of a variable or a function, as in `x = 5` and `f(x) = 5`."""
    unit: Unit | None = None
    decimals: int | None = None
    """The number of decimals, if it is a decimal number."""

    def number(self) -> Any:
        """Return the value of an expression without variables; raise KeyError for another one."""
        return self.compute({})

    def times(self, factor: Fraction) -> "Value":
        """Return the value times a number, without a unit."""
        return Value(
            lambda at: self.compute(at) * factor.numerator / factor.denominator, self.names
        )


def apply(function: Callable[..., Any], *parts: Value) -> Value:
    """Return the value of a function of values."""
    names = frozenset[str]().union(*(part.names for part in parts))
    return Value(lambda at: function(*(part.compute(at) for part in parts)), names)


def bind(value: Value, name: str, number: Compute) -> Value:
    """Return an expression in which a variable has a fixed value."""
    return Value(lambda at: value.compute({**at, name: number(at)}), value.names - {name})


# Compare ----------------------------------------------------------------------------------------


def is_equal(left: Value, right: Value) -> bool:
    """Tell whether two expressions have the same value at three points of their variables."""
    pair = apply(_difference, left, right)
    return all(_vanishes(pair.compute, point) for point in _points(pair.names))


def is_proportional(left: Value, right: Value, *, positive: bool = False) -> bool:
    """Tell whether one expression is the other times a constant that is not 0."""
    ratio = apply(operator.truediv, left, right)
    first, *others = _points(ratio.names)
    with context.workdps(DIGITS_AT_POINT):
        constant = ratio.compute(first)
    if not constant or (positive and not context.re(constant) > 0):
        return False

    def deviation(at: Point) -> Any:
        return _difference(ratio.compute(first), ratio.compute(at))

    return all(_vanishes(deviation, point) for point in others)


def _vanishes(compute: Compute, point: Point) -> bool:
    """Tell whether a difference is 0.

    With more digits a rounding error changes, but a difference of the values stays as it is.
    """
    digits = DIGITS_AT_POINT if point else DIGITS
    with context.workdps(digits):
        rough = compute(point)
    if not rough:
        return True
    with context.workdps(digits + MORE_DIGITS):
        return bool(abs(compute(point) - rough) > abs(rough) / 2)


def _difference(left: Any, right: Any) -> Any:
    return 0 if left == right else left - right


def _points(names: frozenset[str]) -> Iterator[Point]:
    """Yield values of the variables, always the same ones; negative ones only with `|x|`."""
    for number in range(POINTS):
        sign = -1 if BARS in names and number else 1
        yield {name: sign * _coordinate(f"{name} {number}") for name in names}


def _coordinate(seed: str) -> Any:
    return context.mpf(Random(seed).randrange(70_000, 130_000)) / 32_768


# Compute ----------------------------------------------------------------------------------------


def total(*terms: Any) -> Any:
    """Return a sum; raise OverflowError if it is infinite."""
    value = reduce(operator.add, terms)
    if context.isinf(value):
        raise OverflowError("a sum with infinity")
    return value


def product(*factors: Any) -> Any:
    """Return a product."""
    return reduce(operator.mul, factors)


def power(base: Any, exponent: Any) -> Any:
    """Return a power; raise an ArithmeticError if it has no value or is too large."""
    if not base:
        if not context.re(exponent) > 0:
            raise ZeroDivisionError
        return base
    if not abs(exponent) * (1 + abs(context.mag(base))) <= MAX_LOGARITHM:
        raise OverflowError("a power that is too large")
    return base**exponent


def root(value: Any, index: Any) -> Any:
    """Return a root; the cube root of a negative number is real."""
    if index == 3 and not context.im(value) and value < 0:
        return -power(-value, 1 / index)
    return context.sqrt(value) if index == 2 else power(value, 1 / index)


def factorial(value: Any) -> Any:
    """Return `value!`, exactly up to 3,000!."""
    if not abs(value) <= MAX_FACTORIAL:
        raise OverflowError("a factorial that is too large")
    if context.isint(value) and 0 <= value <= MAX_EXACT:
        return context.mpf(_exact_factorial(int(value)))
    if not context.isint(2 * value) and context.dps > DIGITS_AT_POINT + MORE_DIGITS:
        raise OverflowError("a factorial that takes too long")
    return context.gamma(value + 1)


def binomial(above: Any, below: Any) -> Any:
    """Return a binomial coefficient."""
    return factorial(above) / (factorial(below) * factorial(above - below))


def function(name: str) -> Callable[[Any], Any]:
    """Return a function such as `sin`, which raises an ArithmeticError for what it cannot take."""
    compute = abs if name == "abs" else getattr(context, name)

    def compute_bounded(value: Any) -> Any:
        if name in ("ln", "log10") and not value:
            raise ZeroDivisionError
        if not abs(value) <= MAX_LOGARITHM and name not in ("ln", "log10", "abs"):
            raise OverflowError(name)
        return compute(value)

    return compute_bounded


def series(
    join: Callable[[Any, Any], Any], index: str, first: Value, last: Value, term: Value
) -> Value:
    """Return a sum or a product over an index; raise OverflowError for one within another."""
    if SERIES in term.names:
        raise OverflowError("a series within a series")

    def compute(at: Point) -> Any:
        start = first.compute(at)
        length = last.compute(at) - start
        if not (context.isint(start) and context.isint(length) and 0 <= length < MAX_EXACT):
            raise OverflowError("a series that is too long")
        numbers = (start + number for number in range(int(length) + 1))
        return reduce(join, (term.compute({**at, index: number}) for number in numbers))

    names = first.names | last.names | (term.names - {index}) | {SERIES}
    return Value(compute, names)
