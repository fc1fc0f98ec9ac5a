"""Read intervals and inequalities, and check the sides of a chain of equations."""

import re
from fractions import Fraction

from tempo_trainer.sampling.verifying.mathematics.expressions import Tree, variables
from tempo_trainer.sampling.verifying.mathematics.shapes import Region, Span
from tempo_trainer.sampling.verifying.mathematics.splitting import is_constant, tree_of
from tempo_trainer.sampling.verifying.mathematics.values import equal_trees, value_of

INFINITY: Tree = ("constant", "infty")
MINUS_INFINITY: Tree = ("product", (("number", Fraction(-1)), INFINITY))


def inequality(members: list[str], relations: list[str]) -> Region | None:
    """Return the interval of `1 < x \\le 3`, or `x \\ne 2` as two intervals."""
    texts = [member.strip() for member in members]
    names = [
        i
        for i, text in enumerate(texts)
        if re.fullmatch(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?", text) and not is_constant(text)
    ]
    if len(names) != 1 or len(texts) > 3 or r"\approx" in relations:
        return None
    variable = texts[names[0]]
    ends = [tree_of(text) for i, text in enumerate(texts) if i != names[0]]
    if any(end is None for end in ends):
        return None
    if relations == [r"\ne"]:
        return Region(
            (Span(None, False, ends[0], False), Span(ends[0], False, None, False)), variable
        )
    low: tuple[Tree | None, bool] = (None, False)
    high: tuple[Tree | None, bool] = (None, False)
    for index, relation in enumerate(relations):
        if relation not in ("<", ">", r"\le", r"\ge"):
            return None
        is_left = index + 1 == names[0]
        if not is_left and index != names[0]:
            return None
        end = tree_of(texts[index] if is_left else texts[index + 1])
        is_closed = relation in (r"\le", r"\ge")
        if (relation in ("<", r"\le")) == is_left:
            low = (end, is_closed)
        else:
            high = (end, is_closed)
    return Region((Span(*_finite(*low), *_finite(*high)),), variable)


def interval(opening: str, parts: list[str], closing: str) -> Span | None:
    """Return the interval with these ends and brackets."""
    low = tree_of(parts[0])
    high = tree_of(parts[1])
    if low is None or high is None:
        return None
    return Span(*_finite(low, opening == "["), *_finite(high, closing == "]"))


def _finite(end: Tree | None, is_closed: bool) -> tuple[Tree | None, bool]:
    """Return an end of an interval; one at infinity is None and open."""
    if end is None or end in (INFINITY, MINUS_INFINITY):
        return None, False
    return end, is_closed


def sides_agree(sides: list[str], relations: list[str]) -> bool:
    """Tell whether the constant sides of a chain have one value: 5 = 6 = 7 is no answer."""
    trees = [tree_of(side) for side in sides]
    for index, relation in enumerate(relations):
        left = trees[index]
        right = trees[index + 1]
        if relation != "=" or left is None or right is None or variables(left) | variables(right):
            continue
        if not _are_equal(left, right) and not _rounds_to(left, right):
            return False
    return True


def _rounds_to(left: Tree, right: Tree) -> bool:
    """Tell whether a value is near the other one, as in 1/3 = 0.33."""
    try:
        a = value_of(left)
        b = value_of(right)
        return bool(abs(a - b) <= abs(b) / 50 and b != int(b))
    except (ArithmeticError, TypeError, ValueError):
        return False


def _are_equal(left: Tree, right: Tree) -> bool:
    try:
        return equal_trees(left, right)
    except (ArithmeticError, ValueError, TypeError):
        return False
