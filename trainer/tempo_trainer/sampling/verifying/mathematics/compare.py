"""Compare two answers that were read as shapes."""

import math
from collections.abc import Sequence
from fractions import Fraction

from tempo_trainer.sampling.verifying.mathematics.expressions import Tree, variables
from tempo_trainer.sampling.verifying.mathematics.quantities import Quantity
from tempo_trainer.sampling.verifying.mathematics.shapes import (
    Based,
    Congruence,
    Equation,
    Items,
    Matrix,
    Named,
    Readings,
    Region,
    Shape,
    Span,
    Words,
)
from tempo_trainer.sampling.verifying.mathematics.values import (
    equal_trees,
    proportional,
    value_of,
)

MIN_DECIMALS = 6  # a decimal number with fewer is no rounding of another number
FLOAT_DIGITS = 15
FLOAT_TOLERANCE = Fraction(1, 10**14)
CONSTANT_OF_INTEGRATION = ("variable", "C")
DEGREES_OF_RADIAN: Tree = (
    "product",
    (("number", Fraction(180)), ("power", ("constant", "pi"), ("number", Fraction(-1)))),
)


def equal_readings(reference: Readings, response: Readings) -> bool:
    """Tell whether a reading of the response equals one of the reference."""
    return any(equal_shapes(a, b) for a in reference for b in response)


def equal_shapes(reference: Shape, response: Shape) -> bool:
    """Tell whether two shapes are the same answer; what cannot be computed is not."""
    try:
        return _equal(reference, response)
    except (ArithmeticError, ValueError, TypeError, AttributeError):
        return False


def _equal(reference: Shape, response: Shape) -> bool:
    if isinstance(reference, Named) and isinstance(response, Named):
        same = _same_name(reference.name, response.name)
        return same and _equal(reference.value, response.value)
    if isinstance(reference, Named):
        return _equal(reference.value, response)
    if isinstance(response, Named):
        return _equal(reference, response.value)
    if isinstance(reference, Words) and isinstance(response, Words):
        return bool(reference.text) and reference.text == response.text
    if isinstance(reference, Quantity) and isinstance(response, Quantity):
        return equal_quantities(reference, response)
    if isinstance(reference, Quantity) and isinstance(response, Equation):
        return _is_result(reference, response)
    if isinstance(reference, Items | Matrix) and isinstance(response, Items | Matrix):
        return _equal_items(reference, response)
    if isinstance(reference, Region) and isinstance(response, Region):
        return _equal_regions(reference, response)
    if isinstance(reference, Equation) and isinstance(response, Equation):
        return _equal_equations(reference, response)
    if isinstance(reference, Congruence):
        return _congruent(reference, response)
    if isinstance(reference, Based) or isinstance(response, Based):
        return _equal_digits(reference, response)
    return False


def _same_name(left: str, right: str) -> bool:
    """Tell whether two names may be the same: x and y are not, f(x) and y are."""
    are_functions = left.endswith(")"), right.endswith(")")
    is_symbol = len(left.partition("(")[0]) == 1 == len(right.partition("(")[0])
    return not is_symbol or are_functions[0] != are_functions[1] or left == right


# Quantities -------------------------------------------------------------------------------------


def equal_quantities(reference: Quantity, response: Quantity) -> bool:
    """Compare values and units; where only one of them has a unit, it does not count."""
    if reference.is_percent != response.is_percent:
        percent, other = sorted((reference, response), key=lambda q: not q.is_percent)
        hundredth = Quantity(_scaled(percent.tree, Fraction(1, 100)))
        bare = Quantity(percent.tree, None, percent.decimals)
        return other.unit is None and (_same_value(bare, other) or _same_value(hundredth, other))
    if reference.unit is not None and response.unit is not None:
        if reference.unit.dimensions != response.unit.dimensions:
            return False
        if reference.unit.size != response.unit.size:
            left = _scaled(reference.tree, reference.unit.size)
            return equal_trees(left, _scaled(response.tree, response.unit.size))
        return _same_value(reference, response)
    return _same_value(reference, response) or _same_angle(reference, response)


def _scaled(tree: Tree, size: Fraction) -> Tree:
    return ("product", (("number", size), tree))


def _same_angle(left: Quantity, right: Quantity) -> bool:
    """Tell whether degrees and radians are the same angle: 90° is π/2."""
    degrees, radians = (left, right) if left.is_angle else (right, left)
    if not degrees.is_angle or "pi" not in str(radians.tree):
        return False
    return equal_trees(degrees.tree, ("product", (radians.tree, DEGREES_OF_RADIAN)))


def _same_value(left: Quantity, right: Quantity) -> bool:
    if equal_trees(left.tree, right.tree):
        return True
    if variables(left.tree) or variables(right.tree):
        return _same_integral(left.tree, right.tree)
    return _is_rounding(left, right) or _is_rounding(right, left)


def _is_rounding(decimal: Quantity, exact: Quantity) -> bool:
    """Tell whether a decimal number is the other number, rounded to 6 decimals or more."""
    if decimal.decimals is None:
        return False
    value = value_of(decimal.tree)
    other = value_of(exact.tree)
    if not value or not isinstance(value, Fraction):
        return False
    digits = decimal.decimals + math.floor(math.log10(abs(value))) + 1
    distance = abs(other - value) if isinstance(other, Fraction) else abs(other - _real(value))
    if digits >= FLOAT_DIGITS and distance <= abs(value) * float(FLOAT_TOLERANCE):
        return True
    if min(digits, decimal.decimals) < MIN_DECIMALS:
        return False
    return bool(distance <= 0.5 * 10.0**-decimal.decimals)


def _real(value: Fraction) -> float:
    return value.numerator / value.denominator


def _same_integral(left: Tree, right: Tree) -> bool:
    """Compare without the constant of integration, which one of the answers may leave out."""
    bare_left = _without_constant(left)
    bare_right = _without_constant(right)
    return (bare_left != left or bare_right != right) and equal_trees(bare_left, bare_right)


def _without_constant(tree: Tree) -> Tree:
    if tree[0] != "sum" or CONSTANT_OF_INTEGRATION not in tree[1] or len(tree[1]) < 2:
        return tree
    terms = tuple(term for term in tree[1] if term != CONSTANT_OF_INTEGRATION)
    rest = terms[0] if len(terms) == 1 else ("sum", terms)
    return rest if variables(rest) else tree


# Lists, regions, equations ----------------------------------------------------------------------


def _equal_items(reference: Items | Matrix, response: Items | Matrix) -> bool:
    if isinstance(reference, Matrix) and isinstance(response, Matrix):
        same_kind = reference.is_determinant == response.is_determinant
        return same_kind and _equal_rows(reference.rows, response.rows)
    left = _as_items(reference)
    right = _as_items(response)
    if left is None or right is None or len(left.items) != len(right.items):
        return False
    if left.bracket == "," != right.bracket:
        return False
    brackets = {left.bracket, right.bracket} - {"", ",", "±", "{"}
    if len(brackets) > 1 and not brackets <= {"|", "(", "["}:
        return False
    if brackets == {"(", "["}:
        return False
    if left.names and right.names:
        return _equal_assignments(left, right)
    if left.is_ordered or right.is_ordered or left.names or right.names:
        return all(map(equal_readings, left.items, right.items))
    return _equal_sets(left.items, right.items)


def _equal_assignments(left: Items, right: Items) -> bool:
    others = dict(zip(right.names, right.items, strict=True))
    if others.keys() != set(left.names):
        return False
    pairs = zip(left.names, left.items, strict=True)
    return all(equal_readings(readings, others[name]) for name, readings in pairs)


def _equal_sets(left: Sequence[Readings], right: Sequence[Readings]) -> bool:
    remaining = list(right)
    for readings in left:
        index = next((i for i, r in enumerate(remaining) if equal_readings(readings, r)), None)
        if index is None:
            return False
        del remaining[index]
    return True


def _as_items(shape: Items | Matrix) -> Items | None:
    """Return a list, also for a matrix of one row or column; None for other matrices."""
    if isinstance(shape, Items):
        return shape
    if shape.is_determinant or not shape.rows:
        return None
    if len(shape.rows) == 1:
        return Items(shape.rows[0], True, bracket="|")
    if all(len(row) == 1 for row in shape.rows):
        return Items(tuple(row[0] for row in shape.rows), True, bracket="|")
    return None


def _equal_rows(left: Sequence[Sequence[Readings]], right: Sequence[Sequence[Readings]]) -> bool:
    if [len(row) for row in left] != [len(row) for row in right]:
        return False
    return all(all(map(equal_readings, a, b)) for a, b in zip(left, right, strict=True))


def _equal_regions(left: Region, right: Region) -> bool:
    names = {left.variable, right.variable} - {None}
    if len(names) > 1:
        return False
    if len(left.spans) != len(right.spans):
        return False
    remaining = list(right.spans)
    for span in left.spans:
        index = next((i for i, s in enumerate(remaining) if _equal_spans(span, s)), None)
        if index is None:
            return False
        del remaining[index]
    return True


def _equal_spans(left: Span, right: Span) -> bool:
    if (left.has_low, left.has_high) != (right.has_low, right.has_high):
        return False
    return _equal_ends(left.low, right.low) and _equal_ends(left.high, right.high)


def _equal_ends(left: Tree | None, right: Tree | None) -> bool:
    if left is None or right is None:
        return left is right
    return equal_trees(left, right)


def _equal_equations(left: Equation, right: Equation) -> bool:
    swapped = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
    first = _difference(left)
    second = _difference(right)
    if left.relation == right.relation:
        is_order = left.relation in swapped
        return proportional(first, second, positive=is_order)
    if swapped.get(left.relation) == right.relation:
        return proportional(first, _scaled(second, Fraction(-1)), positive=True)
    return False


def _difference(equation: Equation) -> Tree:
    return ("sum", (equation.left, _scaled(equation.right, Fraction(-1))))


def _is_result(reference: Quantity, response: Equation) -> bool:
    """Tell whether a response such as `a + b = 7` ends with the number of the reference."""
    if response.relation != "=" or variables(reference.tree) or variables(response.right):
        return False
    is_zero = response.right == ("number", Fraction(0))
    return not is_zero and equal_trees(reference.tree, response.right)


def _congruent(reference: Congruence, response: Shape) -> bool:
    if isinstance(response, Congruence) and response.modulus != reference.modulus:
        return False
    if not isinstance(response, Congruence | Quantity):
        return False
    tree = response.value if isinstance(response, Congruence) else response.tree
    difference = value_of(("sum", (reference.value, _scaled(tree, Fraction(-1)))))
    return isinstance(difference, Fraction) and not difference % reference.modulus


def _equal_digits(reference: Shape, response: Shape) -> bool:
    if isinstance(reference, Based) and isinstance(response, Based):
        return (reference.digits, reference.base) == (response.digits, response.base)
    based, other = (reference, response) if isinstance(reference, Based) else (response, reference)
    if not isinstance(based, Based) or not isinstance(other, Quantity):
        return False
    return (
        other.tree == ("number", Fraction(int(based.digits))) if based.digits.isdigit() else False
    )
