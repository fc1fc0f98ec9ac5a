"""Read an answer in plain notation as a shape, by the grammar in `answer.lark`."""

import operator
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any, cast

from lark import Lark, Transformer, v_args
from lark.exceptions import LarkError

from tempo_storage.answers.number_words import NUMBER_WORDS
from tempo_storage.answers.plain_text import folded, vocabulary
from tempo_storage.answers.units import Unit, unit_of
from tempo_trainer.sampling.verifying.mathematics import relations, values
from tempo_trainer.sampling.verifying.mathematics.shapes import NOTHING, Either, Items, Shape, Text
from tempo_trainer.sampling.verifying.mathematics.values import Value, apply, context

MAX_SIGNS = 2000
# Neither x2 nor 4 5 is a product.
ADJACENT = re.compile(r"(?<![\\A-Za-z])(?!(?<=\d)[eE])[A-Za-z]\s*\d|(?<![_\d.])[\d.]+\s+\.?\d")
LONG_NUMBER = re.compile(r"\d{900}|\d[eE][-+]?\d{6}")
MAX_LETTERS = 3  # a longer run of letters is a word, not a product; so are these
SHORT_WORDS = vocabulary(
    "not and the for are was but per its has had can all any two six ten one is of or so no to in",
    "at by it we he be as if on an my up us do go day men yes non end sum max min gcd lcm",
)
FUNCTIONS = vocabulary(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh log exp sqrt cbrt abs infty infinity"
)
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![^⟦]*⟧)")
LETTERS = re.compile(r"(?!pi$)[A-Za-z ]{2,}")
# A range or a time is no difference and no quotient.
RANGE_OR_TIME = re.compile(r"\d[\d.]*\s*-\s*\d[\d.]*|\d{1,2}\s*:\s*\d\d(?:\s*:\s*\d\d)?\b.*")
THOUSANDS = re.compile(r"(?:[^,([]*[^\d,([])?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:[^\d,)\]][^,)\]]*)?")
BUILDER = re.compile(r"\\\{\s*\(?[\w,\s]+\)?\s*(?:\\in\s*[^|:]*)?[|:]\s*(?P<condition>.*)\\\}")
THERE_IS = re.compile(r"^(?:there (?:is|are|exists?)|it has|the equation has|has) ")
NO_ANSWERS = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions", "empty set"}
    | {
        "the empty set",
        r"\emptyset",
        r"\varnothing",
        "∅",
        r"\{\}",
        r"\{ \}",
        "{}",
        "none exist",
        "no such values exist",
    }
)
LIBRARY_NAMES = {"log": "ln", "lg": "log10"}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "pi": lambda: +context.pi,
    "e": lambda: +context.e,
    "i": lambda: context.mpc(0, 1),
    "infty": lambda: context.inf,
}
CONSTANTS |= {"π": CONSTANTS["pi"]} | dict.fromkeys(["∞", "infinity"], CONSTANTS["infty"])
BOTH = Value(lambda at: at[values.BOTH_SIGNS], frozenset({values.BOTH_SIGNS}))
ANGLE = Value(lambda at: at[values.DEGREES], frozenset({values.DEGREES}))


def read(text: str) -> Shape:
    """Return the shape of a text in plain notation; a Text if it is no mathematics."""
    text = text.rstrip(" .。").strip()
    words = folded(re.sub("[⟦⟧]", " ", text).replace("¤", "$"))
    if THERE_IS.sub("", words) in NO_ANSWERS:
        return NOTHING
    if (number := NUMBER_WORDS.get(words.replace("-", " "))) is not None:
        return Value(lambda at: context.mpf(number.numerator) / number.denominator)
    if RANGE_OR_TIME.fullmatch(text) or LETTERS.fullmatch(text):
        words = re.sub(r"([ap])\.m\b", r"\1m", words)
        words = re.sub(r"\s*([-:])\s*", r"\1", words)
        product = None if text.isupper() or not LETTERS.fullmatch(text) else _parsed(text)
        return Text(words, product if isinstance(product, Value) else None)
    if match := BUILDER.fullmatch(text):
        return read(match["condition"])
    shape = _number_or_list(text) if THOUSANDS.fullmatch(text) else _parsed(text)
    return shape or Text(words)


def _number_or_list(text: str) -> Shape | None:
    """Return 12,345 as a number, and perhaps as a list."""
    number = _parsed(text.replace(",", ""))
    items = _parsed(text)
    if number is None or not isinstance(items, Items):
        return number or items
    return Either((number, replace(items, kind="1,000")))


def _parsed(text: str) -> Shape | None:
    is_large = len(text) > MAX_SIGNS or LONG_NUMBER.search(text)
    if is_large or ADJACENT.search(text) or any(map(_is_word, WORD.findall(text))):
        return None
    try:
        shape: Any = _parser().parse(text)
    except (LarkError, ArithmeticError, TypeError, ValueError, KeyError, RecursionError):
        return None
    return cast(Shape, shape)


def _is_word(run: str) -> bool:
    return run not in FUNCTIONS and (len(run) > MAX_LETTERS or run.casefold() in SHORT_WORDS)


def _value(shape: Shape) -> Value:
    """Return a value that is part of an expression; raise TypeError for another shape."""
    if not isinstance(shape, Value) or shape.unit is not None:
        raise TypeError("no expression")
    return shape


def _operation(function: Callable[..., Any]) -> Callable[..., Value]:
    return lambda _, *parts: apply(function, *map(_value, parts))


@v_args(inline=True)
class Reader(Transformer[Any, Shape]):
    """Makes shapes of the parts of an answer. The rules of the grammar name the methods."""

    sum = _operation(values.total)
    inverse = _operation(lambda below: 1 / below)
    power = _operation(values.power)
    factorial = _operation(values.factorial)
    double_factorial = _operation(context.fac2)
    fraction = _operation(operator.truediv)
    binomial = _operation(values.binomial)
    floor = _operation(context.floor)
    ceil = _operation(context.ceil)

    def number(self, digits: str) -> Value:
        _, decimal, rest = digits.lower().partition(".")
        places, _, exponent = rest.partition("e")
        decimals = len(places) - int(exponent or 0) if decimal else None
        return Value(lambda at: context.mpf(str(digits)), decimals=decimals)

    def name(self, name: str) -> Value:
        label = re.sub(r"[\s{}\\]", "", name)
        return Value(lambda at: at[label], frozenset({label}), label)

    def constant(self, name: str) -> Value:
        label = name.strip("\\ ")
        return Value(lambda at: at[label] if label in at else CONSTANTS[label]())

    def product(self, *factors: Shape) -> Value:
        product = apply(values.product, *map(_value, factors))
        labels = [_value(factor).label for factor in factors]
        is_call = len(labels) == 2 and labels[0] and labels[1].startswith("(")
        is_segment = len(labels) == 2 and all(label.isupper() for label in labels)
        return replace(product, label="".join(labels) if is_call or is_segment else "")

    def positive(self, _: str, value: Shape) -> Value:
        return replace(_value(value), label="")

    def negative(self, _: str, value: Shape) -> Value:
        return replace(apply(operator.neg, _value(value)), decimals=_value(value).decimals)

    def both(self, sign: str, value: Shape) -> Value:
        factor = _value(value) if sign in ("±", r"\pm") else self.negative("-", value)
        return self.product(BOTH, factor)

    def degrees(self, value: Shape) -> Value:
        return replace(self.product(value, ANGLE), decimals=_value(value).decimals)

    def half(self, text: str) -> Value:
        name, below = text.split("/")
        is_constant = name.strip("\\ ") in CONSTANTS
        above = self.constant(name) if is_constant else self.name(name)
        return self.fraction(above, self.number(below.strip()))

    def root(self, name: str, value: Shape) -> Value:
        match = re.search(r"\[\s*(\w+)\s*\]", name)
        degree = match[1] if match else "3" if name in ("∛", r"\cbrt", "cbrt") else "2"
        index = self.number(degree) if degree.isdigit() else self.name(degree)
        return apply(values.root, _value(value), index)

    def call(self, name: str, value: Shape) -> Value:
        name = name.strip("\\ ").replace("arc", "a")
        argument = values.bind(_value(value), values.DEGREES, lambda at: context.pi / 180)
        result = apply(values.function(LIBRARY_NAMES.get(name, name)), argument)
        return replace(result, names=result.names | {values.BARS}) if name == "abs" else result

    def call_power(self, name: str, exponent: Shape, value: Shape) -> Value:
        return self.power(self.call(name, value), exponent)

    def logarithm(self, _: str, base: Shape, value: Shape) -> Value:
        return self.fraction(self.call("ln", value), self.call("ln", base))

    def series(
        self, name: str, index: str, _: str, first: Shape, last: Shape, term: Shape
    ) -> Value:
        join = operator.mul if name.startswith(("∏", r"\prod")) else operator.add
        ends = (_value(first), _value(last))
        return values.series(join, index.strip("\\ "), *ends, _value(term))

    # Values with units ---------------------------------------------------------------------------

    def measured(self, value: Shape, unit: str) -> Value:
        name = re.sub(r"[⟦⟧\\]", " ", unit).replace("¤", "$").strip(" .")
        return replace(_value(value), label="", unit=unit_of(name))

    def money(self, *parts: Any) -> Value:
        value = self.negative(*parts[::2]) if len(parts) == 3 else parts[1]
        return self.measured(value, parts[-2])

    def based(self, text: str) -> Value:
        digits, base = re.findall(r"\d+", text)
        return replace(self.number(digits), unit=Unit(((f"base {base}", 1),), Fraction(1)))

    def ratio(self, *parts: Shape) -> Shape:
        return self.fraction(*parts) if len(parts) == 2 else Items(parts, ":")

    def congruence(self, value: Shape, modulus: str) -> Items:
        return Items((_value(value), self.number(re.sub(r"\D", "", modulus))), "mod")

    # Several answers -----------------------------------------------------------------------------

    def start(self, shape: Shape) -> Shape:
        return relations.in_list([shape])

    def items(self, *shapes: Shape) -> Shape:
        return relations.in_list(shapes, ";" if Text("…") in shapes else ",")

    def row(self, *shapes: Shape) -> Shape:
        return relations.in_list(shapes, ";")

    def brackets(self, opening: str, shape: Shape, closing: str) -> Shape:
        if isinstance(shape, Items) and shape.kind in (",", ";"):
            kind = f"{opening}{closing}".replace(r"\langle", "(").replace(r"\rangle", ")")
            return relations.in_brackets(shape.items, kind)
        if isinstance(shape, Value) and shape.label:
            return replace(shape, label=f"({shape.label})")
        return shape

    def line(self, *shapes: Shape) -> Items:
        return Items(shapes, "|")

    def matrix(self, *lines: Items) -> Items:
        if len(lines) == 1:
            return lines[0]
        is_column = all(len(line.items) == 1 for line in lines)
        return Items(tuple(line.items[0] if is_column else line for line in lines), "|")

    def words(self, text: str) -> Text:
        return Text(folded(text.strip("⟦⟧")))

    def dots(self, _: str) -> Text:
        return Text("…")

    # Relations -----------------------------------------------------------------------------------

    def chain(self, *parts: Any) -> Shape:
        return relations.related(parts[::2], [sign.type for sign in parts[1::2]])


@cache
def _parser() -> Lark:
    """Return the parser; making it takes half a second, which only those who read answers spend."""
    grammar = files(__package__).joinpath("answer.lark").read_text()
    return Lark(grammar, parser="lalr", transformer=Reader())
