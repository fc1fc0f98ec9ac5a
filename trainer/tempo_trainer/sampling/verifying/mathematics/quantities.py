"""Read an expression with its unit: 12 cm, 25%, 90°, $18, 1.5 million, 7 apples."""

import re
from dataclasses import dataclass
from fractions import Fraction

from tempo_storage.answers.number_words import NUMBER_WORDS
from tempo_storage.answers.units import Unit, unit_of
from tempo_trainer.sampling.verifying.mathematics.expressions import Tree, parse_expression
from tempo_trainer.sampling.verifying.mathematics.tokens import UnreadableError

CURRENCY = re.compile(r"^([-+]?)\s*([¤€£¥₹])\s*(?=[\d.\\(])")
MARKED = re.compile(r"(?P<value>[^⟦]*[\w)\]}!.%])\s*(?P<unit>⟦.*)")
DEGREE = re.compile(r"(?P<value>[^a-z]*[\d)}])\s*\^\s*\{?\s*\\circ\s*\}?\s*⟦?(?P<scale>[CF]?)⟧?")
PERCENT = re.compile(r"(?P<value>.*[\d)}])\s*(?:\\%|%|⟦?percent⟧?)\s*")
DIGITS = r"[-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?(?:\s*[*/^]\s*\{?[-+]?\d+\}?)*|\d+\s+\d+/\d+)"
SPELLED = re.compile(
    rf"(?P<value>{DIGITS})(?P<space>\s*)\(?(?P<unit>[A-Za-z°Ωμ€£¥¤][A-Za-z°Ωμ/^{{}}\d\s.·*-]*)\)?"
)
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.I)
MIXED = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")
MONEY = unit_of("$")
ANGLE = unit_of("°")
PERCENT_UNIT = unit_of("%")
DECIMAL = re.compile(r"[-+]?\d*\.(\d+)(?:[eE]([-+]?\d+))?")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An expression, and its unit if it has one."""

    tree: Tree
    unit: Unit | None = None
    decimals: int | None = None
    """The number of decimals, if the expression is a decimal number."""

    @property
    def is_percent(self) -> bool:
        """Whether the unit is percent."""
        return self.unit is not None and self.unit == PERCENT_UNIT

    @property
    def is_angle(self) -> bool:
        """Whether the unit is the degree of an angle."""
        return self.unit is not None and self.unit == ANGLE


def quantity(text: str) -> Quantity | None:
    """Return the quantity that a text in plain notation names, else None."""
    text = text.strip()
    words = " ".join(re.sub(r"[⟦⟧-]", " ", text).casefold().split())
    if words in NUMBER_WORDS:
        return Quantity(("number", NUMBER_WORDS[words]))
    if match := ORDINAL.fullmatch(text):
        text = match[1]
    if match := CURRENCY.match(text):
        inner = quantity(match[1] + text[match.end() :])
        return inner and Quantity(inner.tree, unit_of(match[2]), inner.decimals)
    if text.endswith("¤"):
        return _with_unit(text[:-1], MONEY)
    return _measured(text) or _with_unit(text, None)


def _measured(text: str) -> Quantity | None:
    if match := PERCENT.fullmatch(text):
        return _with_unit(match["value"], PERCENT_UNIT)
    if match := DEGREE.fullmatch(text):
        return _with_unit(match["value"], unit_of("°" + match["scale"]))
    match = MARKED.fullmatch(text)
    is_marked = match is not None
    if match is None:
        match = SPELLED.fullmatch(text)
    if match is None:
        return None
    name = re.sub(r"[⟦⟧{}()]", " ", match["unit"]).replace(r"\circ", "°").strip(" .^")
    first = name.split()[0].casefold() if name.split() else ""
    if first in SCALES:
        scaled = _with_unit(match["value"], unit_of(" ".join(name.split()[1:])))
        factor: Tree = ("number", Fraction(10 ** SCALES[first]))
        return scaled and Quantity(("product", (factor, scaled.tree)), scaled.unit)
    unit = unit_of(name)
    if unit is None and not _is_noun(
        name, is_marked=is_marked, spaced=is_marked or bool(match["space"])
    ):
        return None
    if unit is not None and not is_marked and not match["space"] and len(name) == 1:
        return None  # 2m is a product, 2 m a length
    return _with_unit(match["value"], unit)


def _is_noun(name: str, *, is_marked: bool, spaced: bool) -> bool:
    """Tell whether what follows a number are words: they count nothing."""
    letters = re.fullmatch(r"[A-Za-z][A-Za-z ,.'-]*", name) is not None
    return letters and spaced and (len(name) > 2 or is_marked)


def _with_unit(text: str, unit: Unit | None) -> Quantity | None:
    text = _without_parentheses(text.strip())
    if match := MIXED.fullmatch(text):
        return _mixed(match, unit)
    try:
        tree = parse_expression(text)
    except (UnreadableError, ZeroDivisionError):
        return None
    match = DECIMAL.fullmatch(text.replace(" ", ""))
    decimals = len(match[1]) - int(match[2] or 0) if match else None
    return Quantity(tree, unit, decimals)


def _mixed(match: re.Match[str], unit: Unit | None) -> Quantity | None:
    if not int(match[4]):
        return None
    value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
    return Quantity(("number", -value if match[1] == "-" else value), unit)


def _without_parentheses(text: str) -> str:
    """Return a text without the parentheses around all of it, however many there are."""
    start = 0
    end = len(text)
    partner = _partners(text)
    while end - start > 2 and text[start] == "(" and partner.get(start) == end - 1:
        start += 1
        end -= 1
    return text[start:end]


def _partners(text: str) -> dict[int, int]:
    partners = {}
    opened = []
    for index, character in enumerate(text):
        if character == "(":
            opened.append(index)
        elif character == ")" and opened:
            partners[opened.pop()] = index
    return partners
