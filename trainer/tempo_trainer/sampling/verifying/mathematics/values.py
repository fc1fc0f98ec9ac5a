"""Compute the value of a tree: exact where it is rational, else with 60 digits.

The work is bounded, so nothing hangs: what is too large raises TooLargeError.
"""

import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath

from tempo_trainer.sampling.verifying.mathematics.expressions import Tree, variables

DIGITS = 60
MAX_BITS = 200_000  # of an exact value
MAX_STEPS = 40_000
MAX_WORK = 2 * 10**11  # squares of bits: the greatest common divisor of long numbers is slow
MAX_TERMS = 2_000
MAX_EXACT_FACTORIAL = 3_000
MAX_FACTORIAL = 10**15
MAX_LOGARITHM = 10**12
EQUAL_DIGITS = 40
POINTS = 3

context = mpmath.mp.clone()
context.dps = DIGITS
precise = mpmath.mp.clone()
precise.dps = 4 * DIGITS

Value = Any
"""A Fraction, or a number of mpmath."""


class TooLargeError(ArithmeticError):
    """The value takes too long to compute."""


def equal_trees(left: Tree, right: Tree) -> bool:
    """Tell whether two expressions are equal: as values, or at three points of their variables.

    The points are positive, unless one of the trees has an absolute value.
    """
    names = variables(left) | variables(right)
    if names and variables(left) != variables(right) and not _cancels(left, right):
        return False
    signed = _has_abs(left) or _has_abs(right)
    for number in range(POINTS if names else 1):
        point = {name: _coordinate(name, number, signed=signed) for name in names}
        if not _equal_at(left, right, point):
            return False
    return True


def proportional(left: Tree, right: Tree, *, positive: bool = False) -> bool:
    """Tell whether one expression is the other times a constant that is not 0."""
    if variables(left) != variables(right):
        return False
    ratios = []
    for number in range(POINTS + 1):
        point = {name: _coordinate(name, number, signed=True) for name in variables(left)}
        above = Evaluation(point, context).value(left)
        below = Evaluation(point, context).value(right)
        if not below or not above:
            return False
        ratios.append(_divided(above, below))
    same = all(equal_values(ratios[0], ratio) for ratio in ratios)
    return same and (not positive or _real(ratios[0]) > 0)


def equal_values(left: Value, right: Value) -> bool:
    """Compare exactly, or to 40 digits if one of the values is rounded."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    if any(context.isinf(_mp(value)) or context.isnan(_mp(value)) for value in (left, right)):
        return bool(_mp(left) == _mp(right))
    size = max(abs(_mp(left)), abs(_mp(right)))
    return bool(abs(_mp(left) - _mp(right)) <= size * context.mpf(10) ** -EQUAL_DIGITS)


def value_of(tree: Tree) -> Value:
    """Return the value of a tree without variables; raise ArithmeticError if it has none."""
    return Evaluation({}, context).value(tree)


def _equal_at(left: Tree, right: Tree, point: Mapping[str, Fraction]) -> bool:
    a = Evaluation(point, context).value(left)
    b = Evaluation(point, context).value(right)
    if equal_values(a, b):
        return True
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return False
    if abs(_mp(a) - _mp(b)) > context.mpf(10) ** -(DIGITS // 2) * (1 + abs(_mp(a))):
        return False
    # Nearly equal, as √2·√2 − 2 and 0 are: with more digits a real difference stays.
    exact_a = Evaluation(point, precise).value(left)
    exact_b = Evaluation(point, precise).value(right)
    difference = abs(_in(precise, exact_a) - _in(precise, exact_b))
    return bool(difference <= precise.mpf(10) ** -(3 * DIGITS))


def _coordinate(name: str, number: int, *, signed: bool) -> Fraction:
    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    value = Fraction(int.from_bytes(digest[:2], "big") + 7_000, 32_003)
    return -value if signed and digest[2] % 2 else value


def _has_abs(tree: Any) -> bool:
    pending = [tree]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple):
            if len(part) > 1 and part[:2] == ("call", "abs"):
                return True
            pending.extend(part)
    return False


def _cancels(left: Tree, right: Tree) -> bool:
    """Tell whether the names may differ: a variable may cancel, as in x - x."""
    return bool(variables(left) <= variables(right) or variables(right) <= variables(left))


class Evaluation:
    """Computes values at one point, with a bounded number of steps."""

    def __init__(self, point: Mapping[str, Fraction], mp: Any) -> None:
        self._point = dict(point)
        self._mp = mp
        self._steps = 0
        self._work = 0

    def value(self, tree: Tree) -> Value:
        """Return the value of a tree; raise TooLargeError or ZeroDivisionError."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooLargeError
        kind = tree[0]
        if kind == "number":
            return tree[1]
        if kind == "variable":
            if tree[1] not in self._point:
                raise ArithmeticError(tree[1])
            return self._point[tree[1]]
        if kind == "constant":
            return self._constant(tree[1])
        if kind == "sum":
            total: Value = Fraction(0)
            for part in tree[1]:
                total = self._bounded(self._add(total, self.value(part)))
            return total
        if kind == "product":
            product: Value = Fraction(1)
            for part in tree[1]:
                product = self._bounded(self._times(product, self.value(part)))
            return product
        if kind == "power":
            return self._power(self.value(tree[1]), self.value(tree[2]))
        if kind == "series":
            return self._series(*tree[1:])
        return self._call(tree[1], [self.value(part) for part in tree[2]])

    def _constant(self, name: str) -> Value:
        mp = self._mp
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": mp.inf}[name]

    def _add(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left + right
        return self._finite(left) + self._finite(right)

    def _times(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return left * right
        return self._inexact(left) * self._inexact(right)

    def _power(self, base: Value, exponent: Value) -> Value:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if not base and exponent <= 0:
                raise ZeroDivisionError
            if (exact := self._exact_power(base, exponent)) is not None:
                return exact
        base = self._inexact(base)
        exponent = self._inexact(exponent)
        if base == 0:
            return Fraction(0)
        if self._mp.isinf(base) or self._mp.isinf(exponent):
            raise ArithmeticError("a power of infinity")
        if abs(exponent) * abs(self._mp.log(base)) > MAX_LOGARITHM:
            raise TooLargeError
        return self._mp.power(base, exponent)

    def _exact_power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        size = math.log2(max(abs(base.numerator), base.denominator))
        if abs(exponent.numerator) > MAX_BITS or exponent.denominator > 64:
            return None
        if abs(exponent.numerator) * size > MAX_BITS:
            return None
        if exponent.denominator == 1:
            return base**exponent.numerator
        if base < 0 or bits > 4096:
            return None
        roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
        if roots[0] is None or roots[1] is None:
            return None
        return Fraction(roots[0], roots[1]) ** exponent.numerator

    def _series(self, kind: str, name: str, first: Tree, last: Tree, term: Tree) -> Value:
        start = self.value(first)
        end = self.value(last)
        if not _is_integer(start) or not _is_integer(end) or end - start > MAX_TERMS:
            raise TooLargeError
        result: Value = Fraction(0 if kind == "sum" else 1)
        join = self._add if kind == "sum" else self._times
        outer = self._point.get(name)
        for number in range(int(start), int(end) + 1):
            self._point[name] = Fraction(number)
            # The index i is no imaginary unit inside its own sum.
            value = self.value(_with_index(term, name))
            result = self._bounded(join(result, value))
        if outer is None:
            self._point.pop(name, None)
        else:
            self._point[name] = outer
        return result

    def _call(self, name: str, values: list[Value]) -> Value:
        if name == "factorial":
            return self._factorial(values[0])
        if name == "binom":
            return self._binomial(*values)
        if name in ("floor", "ceil"):
            number = self._inexact(values[0]) if not isinstance(values[0], Fraction) else values[0]
            if isinstance(number, Fraction):
                return Fraction(number.__floor__() if name == "floor" else number.__ceil__())
            return getattr(self._mp, name)(number)
        if name == "abs":
            return abs(values[0])
        if name in ("sqrt", "cbrt"):
            index = values[1] if len(values) > 1 else Fraction(2 if name == "sqrt" else 3)
            if not index:
                raise ZeroDivisionError
            if name == "cbrt" or index == 3:
                return self._cube_root(values[0])
            return self._power(values[0], _divided(Fraction(1), index))
        return self._function(name, [self._inexact(value) for value in values])

    def _cube_root(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value < 0:
            return -self._power(-value, Fraction(1, 3))
        return self._power(value, Fraction(1, 3))

    def _function(self, name: str, values: list[Any]) -> Value:
        mp = self._mp
        if name in ("ln", "log", "lg"):
            base = values[1] if len(values) > 1 else (mp.mpf(10) if name == "lg" else None)
            if values[0] == 0 or base in (0, 1):
                raise ZeroDivisionError
            result = mp.log(values[0])
            return result if base is None else result / mp.log(base)
        if abs(values[0]) > MAX_LOGARITHM:
            raise TooLargeError
        return getattr(mp, name)(values[0])

    def _factorial(self, value: Value) -> Value:
        if abs(value) > MAX_FACTORIAL:
            raise TooLargeError
        if _is_integer(value):
            if value < 0:
                raise ArithmeticError("a factorial of a negative number")
            if value <= MAX_EXACT_FACTORIAL:
                return Fraction(math.factorial(int(value)))
        return self._mp.gamma(self._inexact(value) + 1)

    def _binomial(self, top: Value, bottom: Value) -> Value:
        if abs(top) > MAX_FACTORIAL or abs(bottom) > MAX_FACTORIAL:
            raise TooLargeError
        if _is_integer(top) and _is_integer(bottom) and 0 <= top <= MAX_EXACT_FACTORIAL:
            below = int(bottom)
            if not 0 <= below <= top:
                return Fraction(0)
            return Fraction(math.comb(int(top), below))
        one = self._factorial(top)
        return _divided(one, self._times(self._factorial(bottom), self._factorial(top - bottom)))

    def _finite(self, value: Value) -> Any:
        number = self._inexact(value)
        if self._mp.isinf(number):
            raise ArithmeticError("a sum with infinity")
        return number

    def _inexact(self, value: Value) -> Any:
        return _in(self._mp, value)

    def _bounded(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            self._work += bits * bits if value.denominator > 1 else bits
            if self._work > MAX_WORK:
                raise TooLargeError
            return self._inexact(value) if bits > MAX_BITS else value
        return value


def _with_index(tree: Any, name: str) -> Any:
    """Return the tree of a term in which the constant of this name is the index."""
    if not isinstance(tree, tuple):
        return tree
    if tree == ("constant", name):
        return ("variable", name)
    return tuple(_with_index(part, name) for part in tree)


def _root(value: int, index: int) -> int | None:
    """Return the integer root, or None if it is not an integer."""
    if value in (0, 1):
        return value
    guess = int(mpmath.mp.clone().root(mpmath.mpf(value), index) + mpmath.mpf("0.5"))
    if value.bit_length() > 50:
        guess = _newton_root(value, index)
    return guess if guess**index == value else None


def _newton_root(value: int, index: int) -> int:
    guess = 1 << (value.bit_length() // index + 1)
    while True:
        better = ((index - 1) * guess + value // guess ** (index - 1)) // index
        if better >= guess:
            return guess
        guess = better


def _is_integer(value: Value) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


def _divided(above: Value, below: Value) -> Value:
    if isinstance(above, Fraction) and isinstance(below, Fraction):
        return above / below
    return _mp(above) / _mp(below)


def _real(value: Value) -> Any:
    return value if isinstance(value, Fraction) else _mp(value).real


def _mp(value: Value) -> Any:
    return _in(context, value)


def _in(mp: Any, value: Value) -> Any:
    if isinstance(value, Fraction):
        return _from_integer(mp, value.numerator) / _from_integer(mp, value.denominator)
    return mp.convert(value)


def _from_integer(mp: Any, number: int) -> Any:
    """Return an integer as a number of mpmath, which is slow with long ones: cut them first."""
    surplus = max(0, number.bit_length() - 4 * mp.prec)
    return mp.ldexp(mp.mpf(number >> surplus), surplus)
