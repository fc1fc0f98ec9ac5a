"""Make shapes of lists, intervals, equations and inequalities."""

import operator
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeGuard

from tempo_storage.answers.units import unit_of
from tempo_trainer.sampling.verifying.mathematics import values
from tempo_trainer.sampling.verifying.mathematics.shapes import Either, Items, Related, Shape, Text
from tempo_trainer.sampling.verifying.mathematics.values import Value, context

ZERO = Value(lambda at: context.zero)
INFINITY = Value(lambda at: context.inf)
MINUS_INFINITY = Value(lambda at: -context.inf)
MAX_ITEMS = 64


def in_list(shapes: Sequence[Shape], kind: str = ",") -> Shape:
    """Return a list of shapes, or the shape itself if it is the only one."""
    items: list[Shape] = []
    for shape in map(_complete, shapes):
        items += shape.items if isinstance(shape, Items) and shape.kind == "±" else (shape,)
    if len(items) > MAX_ITEMS:
        raise ValueError("too many answers")
    return items[0] if len(items) == 1 else Items(tuple(items), kind)


def in_brackets(items: Sequence[Shape], kind: str) -> Items:
    """Return a tuple or an interval with these brackets."""
    if kind in ("()", "[]") and not any(map(_is_infinite, items)):
        return Items(tuple(items), kind)
    low, high = items
    return _interval(low, high, kind)


def _complete(shape: Shape) -> Shape:
    """Return a value with the unit of an angle, and one with ± as two values."""
    if isinstance(shape, Value) and values.DEGREES in shape.names:
        bare = values.bind(shape, values.DEGREES, lambda at: 1)
        shape = replace(bare, unit=unit_of("°"), decimals=shape.decimals)
    if isinstance(shape, Value) and values.BOTH_SIGNS in shape.names:
        plus = values.bind(shape, values.BOTH_SIGNS, lambda at: 1)
        return Items((plus, values.bind(shape, values.BOTH_SIGNS, lambda at: -1)), "±")
    return shape


def _interval(low: Shape, high: Shape, kind: str) -> Items:
    """Return an interval; an end at infinity is open."""
    left = "(" if _is_infinite(low) else kind[0]
    right = ")" if _is_infinite(high) else kind[1]
    return Items((low, high), left + right, is_interval=True)


def is_number(shape: Shape | None) -> TypeGuard[Value]:
    """Tell whether a shape is a value without variables."""
    return isinstance(shape, Value) and not shape.names


def _is_infinite(shape: Shape) -> bool:
    return is_number(shape) and bool(context.isinf(shape.number()))


def related(sides: Sequence[Shape], signs: Sequence[str]) -> Shape:
    """Return the shape of a chain such as `x = 3 + 4 = 7` or `1 < x < 3`.

    Raises ValueError for one that is no answer, as `5 = 6 = 7`.
    """
    if set(signs) <= {"EQUAL", "NEARLY"}:
        return _equated(sides, signs)
    if list(signs) == ["IN"] and (name := _label(sides[0])):
        return Related("EQUAL", None, name, sides[1])
    return _inequality(sides, signs)


def _label(shape: Shape) -> str:
    if isinstance(shape, Text):
        return shape.text
    if isinstance(shape, Items):
        labels = list(map(_label, shape.items))
        return f"({','.join(labels)})" if all(labels) else ""
    return shape.label if isinstance(shape, Value) else ""


def _equated(sides: Sequence[Shape], signs: Sequence[str]) -> Shape:
    if _label(sides[-1]) and not _label(sides[0]):
        sides = sides[::-1]
    name = _label(sides[0])
    results = sides[1:] if name else sides
    if not all(_agree(left, right) for left, right in pairwise(results)):
        raise ValueError("sides with different values")
    readings = [_complete(results[-1])]
    if "NEARLY" in signs:
        readings += filter(is_number, results[:-1])
    value = readings[0] if len(readings) == 1 else Either(tuple(readings))
    if not name and (is_number(sides[0]) or len(sides) > 2):
        return value
    # The 7 of a + b = 7 may be asked for; that of x² = 7 is none of its solutions.
    difference = _difference(sides)
    is_sum = difference is not None and len(difference.names - {values.BARS}) > 1
    is_result = is_sum and is_number(value) and not values.is_equal(value, ZERO)
    return Related("EQUAL", difference, name, value if name or is_result else None)


def _difference(sides: Sequence[Shape]) -> Value | None:
    left, right = sides[:2]
    if len(sides) > 2 or not isinstance(left, Value) or not isinstance(right, Value):
        return None
    return values.apply(operator.sub, left, right)


def _agree(left: Shape, right: Shape) -> bool:
    """Tell whether constant sides have one value, perhaps rounded as in 1/3 = 0.33."""
    if not is_number(left) or not is_number(right) or values.is_equal(left, right):
        return True
    value = right.number()
    return bool(right.decimals and abs(left.number() - value) <= abs(value) / 50)


def _order(sides: Sequence[Shape], signs: Sequence[str]) -> Items:
    """Return the sides of `a < b < c`, the least one first."""
    if len(set(signs)) > 1 or signs[0] not in ("LESS", "AT_MOST", "GREATER", "AT_LEAST"):
        raise ValueError("a chain of different signs")
    is_rising = signs[0] in ("LESS", "AT_MOST")
    kind = "<" if signs[0] in ("LESS", "GREATER") else "≤"
    return Items(tuple(sides if is_rising else reversed(sides)), kind, is_interval=True)


def _inequality(sides: Sequence[Shape], signs: Sequence[str]) -> Related | Items:
    """Return an interval with the name of its variable, else only the difference of the sides."""
    labels = list(filter(None, map(_label, sides)))
    if len(labels) != 1:
        return _order(sides, signs) if len(sides) > 2 else Related(signs[0], _difference(sides))
    if list(signs) == ["UNEQUAL"]:
        end = next(side for side in sides if not _label(side))
        spans = (_interval(MINUS_INFINITY, end, "()"), _interval(end, INFINITY, "()"))
        return Related("EQUAL", None, labels[0], Items(spans))
    low: Shape = MINUS_INFINITY
    high: Shape = INFINITY
    kind = ["(", ")"]
    for (left, right), sign in zip(pairwise(sides), signs, strict=True):
        below, above = (left, right) if sign in ("LESS", "AT_MOST") else (right, left)
        is_closed = sign in ("AT_MOST", "AT_LEAST")
        if _label(above):
            low = below
            kind[0] = "[" if is_closed else "("
        elif _label(below):
            high = above
            kind[1] = "]" if is_closed else ")"
        else:
            raise ValueError("two ends without the variable between them")
    return Related(signs[0], _difference(sides), labels[0], _interval(low, high, "".join(kind)))
