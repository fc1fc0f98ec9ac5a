"""Compare two answers that were read as shapes."""

import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from tempo_storage.answers.units import unit_of
from tempo_trainer.sampling.verifying.mathematics.relations import is_number
from tempo_trainer.sampling.verifying.mathematics.shapes import Either, Items, Related, Shape, Text
from tempo_trainer.sampling.verifying.mathematics.values import (
    BARS,
    Value,
    apply,
    bind,
    context,
    is_equal,
    is_proportional,
)

MIN_DECIMALS = 6  # a decimal number with fewer is no rounding of another number
FLOAT_DIGITS = 15
FLOAT_TOLERANCE = 1e-14
CONSTANT_OF_INTEGRATION = "C"
VARIABLES_OF_INTEGRATION = frozenset(map(frozenset, "xyztuvwsrθ"))
PERCENT = unit_of("%")
ANGLE = unit_of("°")
SWAPPED = {"LESS": "GREATER", "GREATER": "LESS", "AT_MOST": "AT_LEAST", "AT_LEAST": "AT_MOST"}
ORDERED_KINDS = frozenset({"()", "[]", "(]", "[)", ";", ":", "|", "mod", "<", "≤"})
NO_WORD = re.compile(r"(?:[b-df-hj-np-tv-xz ]|(?<=x)y|y(?=[xz]))+")  # pq, m g, xy


def equal(reference: Shape, response: Shape) -> bool:
    """Tell whether two shapes are the same answer; one that cannot be computed is not."""
    try:
        return _equal(reference, response)
    except (ArithmeticError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _equal(reference: Shape, response: Shape) -> bool:
    if isinstance(reference, Either):
        return any(equal(one, response) for one in reference.readings)
    if isinstance(response, Either):
        return any(equal(reference, one) for one in response.readings)
    if isinstance(reference, Related) or isinstance(response, Related):
        return _equal_related(reference, response)
    if isinstance(reference, Items) and isinstance(response, Items):
        return _equal_items(reference, response)
    if isinstance(reference, Value) and isinstance(response, Value):
        return _equal_values(reference, response)
    if isinstance(response, Items) and response.kind == "," and isinstance(reference, Value):
        return all(equal(reference, item) for item in response.items)
    if isinstance(reference, Items) and isinstance(response, Value):
        return reference.kind == "mod" and _is_congruent(reference, response)
    return _equal_texts(reference, response)


def _equal_texts(reference: Shape, response: Shape) -> bool:
    """Compare words. Letters such as `ab` are a product, too, but `dog` is not the word `god`."""
    is_word = isinstance(reference, Text) and not NO_WORD.fullmatch(reference.text)
    if isinstance(response, Text) and (is_word or reference == response):
        return reference == response and bool(response.text)
    left = reference.product if isinstance(reference, Text) else reference
    right = response.product if isinstance(response, Text) else response
    return isinstance(left, Value) and isinstance(right, Value) and is_equal(left, right)


# Values -----------------------------------------------------------------------------------------


def _equal_values(reference: Value, response: Value) -> bool:
    """Compare values and units; where only one of them has a unit, it does not count."""
    if (reference.unit == PERCENT) != (response.unit == PERCENT):
        percent, other = (
            (reference, response) if reference.unit == PERCENT else (response, reference)
        )
        hundredth = percent.times(Fraction(1, 100))
        return other.unit is None and (_same(percent, other) or is_equal(hundredth, other))
    if reference.unit is not None and response.unit is not None:
        if reference.unit.dimensions != response.unit.dimensions:
            return False
        if reference.unit.size != response.unit.size:
            left = reference.times(reference.unit.size)
            return is_equal(left, response.times(response.unit.size))
    elif ANGLE in (reference.unit, response.unit) and _same_angle(reference, response):
        return True
    return _same(reference, response)


def _same_angle(left: Value, right: Value) -> bool:
    """Tell whether degrees and radians are the same angle: 90° is π/2."""
    degrees, radians = (left, right) if left.unit == ANGLE else (right, left)
    in_radians = Value(lambda at: degrees.compute(at) * context.pi / 180, degrees.names)
    return is_equal(in_radians, radians)


def _same(left: Value, right: Value) -> bool:
    if is_equal(left, right):
        return True
    if left.names or right.names:
        return _same_integral(left, right)
    return _is_rounding(left, right) or _is_rounding(right, left)


def _is_rounding(decimal: Value, exact: Value) -> bool:
    """Tell whether a decimal number is the other number, rounded to 6 decimals or more."""
    value = decimal.number()
    if decimal.decimals is None or not value:
        return False
    with context.workdps(FLOAT_DIGITS):
        digits = decimal.decimals + int(context.floor(context.log10(abs(value)))) + 1
    distance = abs(exact.number() - value)
    if digits >= FLOAT_DIGITS and distance <= abs(value) * FLOAT_TOLERANCE:
        return True
    return min(digits, decimal.decimals) >= MIN_DECIMALS and bool(
        distance <= context.mpf(10) ** -decimal.decimals / 2
    )


def _same_integral(left: Value, right: Value) -> bool:
    """Compare without the constant of integration, which one of the answers may leave out."""
    is_renamed = CONSTANT_OF_INTEGRATION in left.names and "c" in right.names
    other_name = "c" if is_renamed else CONSTANT_OF_INTEGRATION
    bare = (_without(CONSTANT_OF_INTEGRATION, left), _without(other_name, right))
    variables = [value.names - {BARS} for value in bare]
    is_integral = variables[0] == variables[1] and variables[0] in VARIABLES_OF_INTEGRATION
    return is_integral and is_equal(*bare)


def _without(constant: str, value: Value) -> Value:
    """Return a value without a term that is the constant alone: `x^2` for `x^2 + C`."""
    bare = bind(value, constant, lambda at: 0)
    term = Value(lambda at: at[constant], frozenset({constant}))
    is_term = constant in value.names and is_equal(value, apply(operator.add, bare, term))
    return bare if is_term else value


# Several answers --------------------------------------------------------------------------------


def _equal_items(reference: Items, response: Items) -> bool:
    if reference.kind == response.kind == "mod":
        same_modulus = equal(reference.items[1], response.items[1])
        return same_modulus and _is_congruent(reference, response.items[0])
    kinds = {reference.kind, response.kind}
    if reference.is_interval or response.is_interval:
        is_comparable = len(kinds) == 1
    else:
        if reference.kind == "1,000" != response.kind:
            return False
        brackets = kinds - {",", ";", "±", "1,000"}
        is_comparable = len(brackets) < 2 or brackets in ({"|", "()"}, {"|", "[]"})
    if not is_comparable or len(reference.items) != len(response.items):
        return False
    names = [_names(items) for items in (reference, response)]
    is_ordered = any(names) or kinds & ORDERED_KINDS
    if all(names) or not is_ordered:
        return _equal_sets(reference.items, response.items)
    return all(map(equal, reference.items, response.items))


def _names(items: Items) -> set[str]:
    """Return the names of `x = 3, y = 5`; nothing if two values have the same name, or one none."""
    names = {item.name for item in items.items if isinstance(item, Related) and item.name}
    return names if len(names) == len(items.items) else set()


def _equal_sets(left: Sequence[Shape], right: Sequence[Shape]) -> bool:
    remaining = list(right)
    for one in left:
        index = next((i for i, other in enumerate(remaining) if equal(one, other)), None)
        if index is None:
            return False
        del remaining[index]
    return True


def _is_congruent(reference: Items, response: Shape) -> bool:
    value, modulus = reference.items
    if not isinstance(response, Value) or not is_number(value) or not is_number(modulus):
        return False
    return bool(context.isint((value.number() - response.number()) / modulus.number()))


# Relations --------------------------------------------------------------------------------------


def _equal_related(reference: Shape, response: Shape) -> bool:
    if not isinstance(response, Related):
        assert isinstance(reference, Related)
        return bool(reference.name) and _equal_value(reference, response)
    if not isinstance(reference, Related):
        is_result = bool(response.name) or is_number(reference)
        return is_result and response.value is not None and equal(reference, response.value)
    if reference.name and response.name and _same_name(reference.name, response.name):
        return _equal_value(reference, response.value) or _same_relation(reference, response)
    return _same_relation(reference, response)


def _equal_value(reference: Related, response: Shape | None) -> bool:
    value = reference.value
    if value is None or response is None:
        return False
    # In `y = x + C` the constant stands for many answers, and `y = x` is only one of them.
    return _has_constant(value) == _has_constant(response) and equal(value, response)


def _has_constant(shape: Shape) -> bool:
    return isinstance(shape, Value) and not shape.names.isdisjoint({CONSTANT_OF_INTEGRATION, "c"})


def _same_name(left: str, right: str) -> bool:
    """Tell whether two names may be the same: x and y are not, f(x) and y are."""
    is_symbol = len(left.partition("(")[0]) == 1 == len(right.partition("(")[0])
    return not is_symbol or left.endswith(")") != right.endswith(")") or left == right


def _same_relation(left: Related, right: Related) -> bool:
    if left.difference is None or right.difference is None:
        return False
    is_order = left.sign in SWAPPED
    if left.sign == right.sign:
        return is_proportional(left.difference, right.difference, positive=is_order)
    if SWAPPED.get(left.sign) != right.sign:
        return False
    return is_proportional(left.difference, right.difference.times(Fraction(-1)), positive=True)
