r"""Read numbers as people and models write them.

1,080   1{,}080   12\,600   −3   $18   20%   3/4   \frac{3}{4}   2 1/2   ½   6.02e23
6.02 \times 10^{23}   10^3   1.5 million
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000  # of a number, and the size of an exponent
MAX_TEXT = 4096

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
PLAIN_DIGITS = str.maketrans(SUPERSCRIPTS, "0123456789-+")
VULGAR = re.compile("[¼-¾⅐-⅞↉]")
RAISED = re.compile(f"[{SUPERSCRIPTS}]+")
MINUS = str.maketrans({c: "-" for c in "−–—‐‑‒﹣－"} | {"×": "*", "·": "*", "⋅": "*", "⁄": "/"})
CURRENCY = re.compile(r"\\?\$|[€£¥₹₽₩¢]")
SPACES = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|[;:! ~])|[~\u00a0\u2009\u202f]")
THIN = re.compile(r"(?<=\d)(?:\\,|\{,\}\s*|,\\[!,]\s*|['’])(?=\d{3}(?!\d))")
SPACED_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d./])")
FONT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textrm|mbox|operatorname)\s*\{([^{}]{0,200})\}")
FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*([-+]?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([-+]?[\d.,]+)\s*\}|(\d))"
)
TIMES_TEN = re.compile(
    r"(?<=[\d.])\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,6})\s*\}?"
)
POWER = re.compile(r"(?<=\d)\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,6})\s*\}?")

DIGITS = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)"
    r"|\d{1,3}(?:\.\d{3})+,\d+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)"
    r"|\d+,\d+(?![\d,])|\d+\.?\d*|\.\d+"
)
NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![\w)\]}}.])|(?<=[a-zA-Z]\s))[-+]\s?)?(?:"
    rf"(?P<whole>\d{{1,9}})\s+(?P<top>\d{{1,9}})\s*/\s*(?P<bottom>\d{{1,9}})(?![\d.])"
    rf"|(?P<number>{DIGITS})(?:[eE](?P<exponent>[-+]?\d{{1,6}})(?!\w))?(?:\^(?P<power>[-+]?\d{{1,6}}))?"
    rf"(?:\s*/\s*(?P<divisor>\d[\d,]*\.?\d*)(?![\w/]))?)"
    r"(?P<percent>\s*\\?%|\s*percent\b)?(?:\s*(?P<scale>thousand|million|billion|trillion)\b)?",
    re.I,
)
NOT = re.compile(r"(?:\bnot|n't|\bnever|\bcannot be|\bthan)\s+\Z", re.I)
COMMAS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}")
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Signs that join two numbers to a range, a calculation or a list, none of which is one number.
JOINS = re.compile(
    r"\s*(?:[-+*/^=<>&]|,|;|:|\\(?:times|cdot|div|pm|le|ge|approx)\b|to\b|or\b|and\b)\s*[-+]?\$?\s*\.?\d",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a text and its place there."""

    values: tuple[Fraction, ...]
    """The value; if the text can be read in two ways (9.500), both."""
    is_percent: bool
    start: int
    end: int

    def equals(self, other: "Number | None") -> bool:
        """Tell whether the other number may have the same value."""
        if other is None or self.is_percent != other.is_percent:
            return False
        return not set(self.values).isdisjoint(other.values)


def number_text(text: str) -> str:
    """Return a text with its numbers in plain notation."""
    text = VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    text = RAISED.sub(lambda m: "^" + m[0].translate(PLAIN_DIGITS), text[:MAX_TEXT])
    text = unicodedata.normalize("NFKC", text).translate(MINUS)
    text = THIN.sub("", SPACES.sub("", text).replace("{,}", ","))
    text = FONT.sub(r" \1 ", CURRENCY.sub("", text)).replace(r"\%", "%").replace(r"\,", " ")
    text = SPACED_GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
    text = FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    text = re.sub(r"-\s+(?=\d+/\d)", "-", text)
    return POWER.sub(r"^\1", TIMES_TEN.sub(r"e\1", text))


def numbers_in(text: str) -> list[Number]:
    """Return the numbers of a text that `number_text` returned; not those beyond 1,000 digits."""
    return [number for match in NUMBER.finditer(text) if (number := _number(match)) is not None]


def only_number(text: str) -> Number | None:
    """Return the number of a text that is one number and nothing else."""
    text = number_text(text).strip().rstrip(".")
    numbers = numbers_in(text)
    if len(numbers) != 1 or text[: numbers[0].start].strip() or text[numbers[0].end :].strip():
        return None
    return numbers[0]


def first_number(text: str) -> Number | None:
    """Return the first number of a plain text; None if it is part of a range or a calculation."""
    numbers = _affirmed(text)
    return numbers[0] if numbers and not _is_joined(text, numbers[0]) else None


def last_number(text: str) -> Number | None:
    """Return the last number of a plain text; None if it is part of a range or a calculation."""
    numbers = _affirmed(text)
    if not numbers or (len(numbers) > 1 and _is_joined(text, numbers[-2])):
        return None
    return numbers[-1]


def _affirmed(text: str) -> list[Number]:
    """Return the numbers of a plain text that do not stand after "not" or "than"."""
    return [n for n in numbers_in(text) if not NOT.search(text[max(0, n.start - 12) : n.start])]


def _is_joined(text: str, number: Number) -> bool:
    return JOINS.match(text, number.end) is not None


def _number(match: re.Match[str]) -> Number | None:
    values: tuple[Fraction, ...]
    if match["whole"]:
        bottom = int(match["bottom"])
        values = (int(match["whole"]) + Fraction(int(match["top"]), bottom),) if bottom else ()
    else:
        values = _values(match)
    if not values:
        return None
    factor = 10 ** SCALES.get((match["scale"] or "").lower(), 0)
    factor = -factor if (match["sign"] or "").startswith("-") else factor
    values = tuple(value * factor for value in values)
    return Number(values, match["percent"] is not None, match.start(), match.end())


def _values(match: re.Match[str]) -> tuple[Fraction, ...]:
    """Return the values that a match may mean; none for a number that is too large."""
    exponent = int(match["exponent"] or 0)
    power = int(match["power"] or 1)
    divisor = Fraction((match["divisor"] or "1").replace(",", "").rstrip("."))
    if len(match["number"]) > MAX_DIGITS or abs(exponent) > MAX_DIGITS or not divisor:
        return ()
    values = _readings(match["number"])
    bits = abs(power) * max(1, values[0].numerator.bit_length())
    if bits > 4 * MAX_DIGITS or (power < 0 and not values[0]):
        return ()
    return tuple((value * Fraction(10) ** exponent) ** power / divisor for value in values)


def _readings(digits: str) -> tuple[Fraction, ...]:
    """Return the value of digits with separators; two values where the point may separate both."""
    if COMMAS.fullmatch(digits):
        return (Fraction(digits.replace(",", "")),)
    if POINTS.fullmatch(digits):
        return (Fraction(digits.replace(".", "").replace(",", ".")),)
    value = Fraction(digits.replace(",", ".").rstrip(".") or 0)
    return (value, value * 1000) if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", digits) else (value,)
