r"""Read an answer in plain notation as a shape.

A text may have several readings: `(0, 2)` is a pair or an interval, `12,345` a number or a list.
`read` returns all of them.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from tempo_storage.answers.plain_text import folded
from tempo_trainer.sampling.verifying.mathematics.quantities import Quantity
from tempo_trainer.sampling.verifying.mathematics.regions import (
    inequality,
    interval,
    sides_agree,
)
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
from tempo_trainer.sampling.verifying.mathematics.splitting import (
    RELATION,
    SEPARATOR,
    THOUSANDS,
    closes_at_end,
    is_bracketed,
    is_constant,
    outer_matches,
    quantity_of,
    separators_of,
    split,
    tree_of,
)

MAX_NESTING = 6
MAX_ITEMS = 64
MAX_READINGS = 6

RELATION_NAMES = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", r"\sim": r"\approx"}
NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-z]+|⟦[^⟧]*⟧|[A-Za-z]{3,}(?: [A-Za-z]+){0,3})\s*(?:_\{?\s*\w+\s*\}?)?\s*"
    r"(?:\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?'?"
)
BUILDER = re.compile(
    r"\\\{\s*\(?[\w,\s]+\)?\s*(?:\\in\s*\\set[A-Z]\s*)?[|:]\s*(?P<condition>.*)\\\}"
)
DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+)")
RANGE = re.compile(r"\d+(?:\.\d+)?\s*-\s*\d+(?:\.\d+)?")
BOTH_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?\b.*")
RATIO = re.compile(r"[^:|]+(?::[^:|]+)+")
MODULO = re.compile(
    r"(?P<value>.+?)\s*\(?\s*(?:\\(?:pmod|bmod|mod)|⟦mod⟧|\bmod\b)"
    r"\s*\{?\s*(?P<modulus>\d+)\s*\}?\s*\)?"
)
BASED = re.compile(r"\(?(?P<digits>[0-9A-Fa-f]+)\)?\s*_\s*\{?\s*(?P<base>\d{1,2})\s*\}?")
MATRIX = re.compile(
    r"\\begin\s*\{\s*(?P<kind>[pbB]?matrix|array|[vV]matrix)\s*\}(?:\s*\{[clr|\s]*\})?"
    r"(?P<body>.*)\\end\s*\{\s*\w+\s*\}",
    re.S,
)
ROW = re.compile(r"↵|\\cr\b")
THERE_IS = re.compile(r"^(?:there (?:is|are|exists?)|it has|the equation has|has) ")
NOTHING = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions", "empty set"}
    | {"the empty set", r"\emptyset", r"\{\}", r"\{ \}", "{}", "none exist", "no such values exist"}
)


def read(text: str, nesting: int = 0) -> Readings:
    """Return the readings of a text in plain notation; Words for other texts."""
    text = _trimmed(text)
    if not text or nesting > MAX_NESTING:
        return (Words(_word_text(text)),)
    if THERE_IS.sub("", _word_text(text)) in NOTHING:
        return (Words("∅"),)
    readings = tuple(_readings(text, nesting))[:MAX_READINGS]
    return readings or (Words(_word_text(text)),)


def _word_text(text: str) -> str:
    return folded(text.replace("⟦", " ").replace("⟧", " ").replace("¤", "$"))


def _trimmed(text: str) -> str:
    text = text.strip().rstrip(".。").strip()
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _readings(text: str, nesting: int) -> Iterator[Shape]:
    if match := MATRIX.fullmatch(text):
        yield _matrix(match, nesting)
        return
    if RANGE.fullmatch(text) or CLOCK.fullmatch(text):
        yield Words(re.sub(r"\s*([-:])\s*", r"\1", _word_text(text)))
        return
    if match := BASED.fullmatch(text):
        yield Based(match["digits"].upper(), int(match["base"]))
        return
    if r"\cup" in text or SEPARATOR.search(text):
        region = _union(text, nesting)
        if region is not None:
            yield region
            return
    parts = split(text, SEPARATOR)
    if THOUSANDS.fullmatch(text) and (number := quantity_of(text.replace(",", ""))):
        yield number
    if len(parts) > 1:
        yield from _list(text, parts, nesting)
        return
    if BOTH_SIGNS.search(text):
        yield _both_signs(text, nesting)
        return
    yield from _single(text, nesting)


def _single(text: str, nesting: int) -> Iterator[Shape]:
    if text == r"\setR":
        yield Region((Span(None, False, None, False),))
        return
    if (match := BUILDER.fullmatch(text)) is not None:
        yield from read(match["condition"], nesting + 1)
        return
    if (match := MODULO.fullmatch(text)) is not None and (
        tree := tree_of(match["value"])
    ) is not None:
        yield Congruence(tree, int(match["modulus"][:18]))
        return
    members = split(text, RELATION)
    if len(members) > 1:
        yield from _related(members, _relations(text), nesting)
        return
    if is_bracketed(text):
        yield from _bracketed(text, nesting)
    number = quantity_of(text)
    if number is not None:
        yield number
        return
    if RATIO.fullmatch(text):
        yield from _ratio(text, nesting)


# Lists ------------------------------------------------------------------------------------------


def _list(text: str, parts: list[str], nesting: int) -> Iterator[Shape]:
    if len(parts) > MAX_ITEMS:
        yield Words(_word_text(text))
        return
    items = [read(part, nesting + 1) for part in parts]
    names = tuple(_name_of(readings) for readings in items)
    is_ordered = (";" in text and "," not in separators_of(text)) or r"\ldots" in text
    plain_items = tuple(_without_name(readings) for readings in items)
    distinct = len(set(names)) == len(names) and all(names)
    bracket = "," if THOUSANDS.fullmatch(text) else ""
    yield Items(_flat(plain_items), is_ordered, bracket, names=names if distinct else ())


def _flat(items: tuple[Readings, ...]) -> tuple[Readings, ...]:
    r"""Return the items with those of `\pm 2` one by one."""
    flat: list[Readings] = []
    for readings in items:
        first = readings[0]
        if isinstance(first, Items) and first.bracket == "±":
            flat.extend(first.items)
        else:
            flat.append(readings)
    return tuple(flat)


def _both_signs(text: str, nesting: int) -> Items:
    plus = BOTH_SIGNS.sub(lambda m: "+" if m[1] == "pm" else "-", text)
    minus = BOTH_SIGNS.sub(lambda m: "-" if m[1] == "pm" else "+", text)
    return Items((_value(plus, nesting), _value(minus, nesting)), False, bracket="±")


def _value(text: str, nesting: int) -> Readings:
    return _without_name(read(text, nesting + 1))


def _name_of(readings: Readings) -> str:
    named = [shape.name for shape in readings if isinstance(shape, Named)]
    return named[0] if named else ""


def _without_name(readings: Readings) -> Readings:
    named = tuple(shape.value for shape in readings if isinstance(shape, Named))
    return named or readings


def _bracketed(text: str, nesting: int) -> Iterator[Shape]:
    is_set = text.startswith(r"\{")
    inner = text[2:-2] if is_set else text[1:-1]
    parts = [part for part in split(inner, SEPARATOR) if part.strip()]
    if is_set:
        items = [read(part, nesting + 1) for part in parts]
        if len(items) == 1 and not isinstance(items[0][0], Items):
            yield from items[0]
        else:
            yield Items(_flat(tuple(items)), r"\ldots" in inner, bracket="{")
        return
    if len(parts) == 2 and "⟦" not in separators_of(inner):
        span = interval(text[0], parts, text[-1])
        if span is not None:
            yield Region((span,))
    if len(parts) > 1 and text[0] + text[-1] in ("()", "[]") and len(parts) <= MAX_ITEMS:
        yield Items(tuple(read(part, nesting + 1) for part in parts), True, bracket=text[0])


def _ratio(text: str, nesting: int) -> Iterator[Shape]:
    parts = text.split(":")
    trees = [tree_of(part) for part in parts]
    if len(trees) == 2 and trees[0] is not None and trees[1] is not None:
        yield Quantity(("product", (trees[0], ("power", trees[1], ("number", Fraction(-1))))))
    elif all(tree is not None for tree in trees):
        yield Items(tuple(read(part, nesting + 1) for part in parts), True, bracket=":")


# Relations --------------------------------------------------------------------------------------


def _relations(text: str) -> list[str]:
    relations = [text[start:end] for start, end in outer_matches(text, RELATION)]
    return [RELATION_NAMES.get(relation, relation) for relation in relations]


def _related(members: list[str], relations: list[str], nesting: int) -> Iterator[Shape]:
    if relations[0] == r"\in" and len(relations) == 1:
        for shape in read(members[1], nesting + 1):
            if isinstance(shape, Region):
                yield Region(shape.spans, members[0].strip())
            else:
                yield shape
        return
    if set(relations) <= {"=", r"\approx"}:
        yield from _equated(members, relations, nesting)
        return
    region = inequality(members, relations)
    if region is not None:
        yield region
    elif len(relations) == 1:
        yield from _equation(members[0], relations[0], members[1])


def _equated(members: list[str], relations: list[str], nesting: int) -> Iterator[Shape]:
    """Yield the readings of `x = 3 + 4 = 7`: the value of x; nothing if the sides differ."""
    texts = [member.strip() for member in members]
    first = texts[0]
    is_named = not first or (NAME.fullmatch(first) is not None and not is_constant(first))
    sides = texts[1:] if is_named else texts
    if not sides_agree(sides, relations[-len(sides) + 1 :] if len(sides) > 1 else []):
        return
    last_sides = [sides[-1]]
    if r"\approx" in relations:
        last_sides += [side for side in sides[:-1] if is_constant(side)]
    for side in last_sides:
        for shape in read(side, nesting + 1):
            if is_named:
                yield Named(_plain_name(first), shape)
            elif is_constant(first) or len(texts) > 2:
                yield shape
    if len(texts) == 2 and first:
        yield from _equation(first, "=", texts[1])


def _plain_name(text: str) -> str:
    return re.sub(r"[\s{}⟦⟧]", "", text)


def _equation(left: str, relation: str, right: str) -> Iterator[Shape]:
    trees = tree_of(left), tree_of(right)
    if trees[0] is not None and trees[1] is not None:
        yield Equation(trees[0], relation, trees[1])


def _union(text: str, nesting: int) -> Region | None:
    """Return the union of intervals or inequalities that a text names, if it names one."""
    pieces = re.split(r"\\cup\b", text)
    if len(pieces) == 1:
        separators = [text[a:b] for a, b in outer_matches(text, SEPARATOR)]
        pieces = split(text, SEPARATOR)
        if not all("or" in one for one in separators) or not all(map(_has_order, pieces)):
            return None
    if not 2 <= len(pieces) <= MAX_ITEMS:
        return None
    regions = [[s for s in read(one, nesting + 1) if isinstance(s, Region)] for one in pieces]
    if not all(regions):
        return None
    names = {r[0].variable for r in regions} - {None}
    spans = tuple(span for r in regions for span in r[0].spans)
    return Region(spans, names.pop() if len(names) == 1 else None)


def _has_order(text: str) -> bool:
    return re.search(r"[<>]|\\(?:le|ge)(?![A-Za-z])", text) is not None


# Matrices ---------------------------------------------------------------------------------------


def _matrix(match: re.Match[str], nesting: int) -> Shape:
    rows = [row for row in ROW.split(match["body"]) if row.strip()]
    entries = tuple(tuple(read(entry, nesting + 1) for entry in row.split("&")) for row in rows)
    return Matrix(entries, match["kind"] in ("vmatrix", "Vmatrix"))
