"""Cut an expression in plain notation into tokens."""

import re
from fractions import Fraction

from tempo_storage.answers.plain_text import vocabulary

MAX_TOKENS = 4096
MAX_DIGITS = 6000
MAX_EXPONENT = 100_000
MAX_LETTERS = 3  # a longer run of letters is a word, not a product; so are these
SHORT_WORDS = vocabulary(
    "not and the for are was but per its has had can all any two six ten one is of or so no to in",
    "at by it we he be as if on an my up us do go day men yes non end sum max min gcd lcm",
)

TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+(?![\w^]))?)"
    r"|\\(?P<command>[A-Za-z]+)\s*|(?P<letters>[A-Za-zΑ-ω]+)|(?P<sign>\\[{}]|[-+*/^!_(){}\[\]|,=]))"
)
FUNCTIONS = vocabulary(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh ln log lg exp sqrt cbrt abs"
)
CONSTANTS = vocabulary("pi infty e i")


class UnreadableError(ValueError):
    """The text is no expression that the parser knows."""


def tokens(text: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each token; raise UnreadableError for another text."""
    parts: list[tuple[str, str]] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or len(parts) > MAX_TOKENS:
            raise UnreadableError(text[:60])
        position = match.end()
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "letters" and value not in FUNCTIONS and value not in CONSTANTS:
            parts += [("letters", letter) for letter in _letters(value)]
        elif kind == "letters":
            parts.append(("command" if len(value) > 1 else "letters", value))
        else:
            parts.append((kind, value))
    return parts


def _letters(run: str) -> str:
    if len(run) > MAX_LETTERS or run.casefold() in SHORT_WORDS:
        raise UnreadableError(run)
    return run


def fraction(digits: str) -> Fraction:
    """Return the value of a number token; raise UnreadableError for one with too many digits."""
    mantissa, _, exponent = digits.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise UnreadableError("a number with too many digits")
    whole, _, decimals = mantissa.partition(".")
    value = Fraction(_integer((whole + decimals) or "0"), 10 ** len(decimals))
    return value * Fraction(10) ** int(exponent or 0)


def _integer(digits: str) -> int:
    """Return the integer of up to 6,000 digits; Python's own limit is 4,300."""
    if len(digits) <= 4000:
        return int(digits)
    return int(digits[:-4000]) * 10**4000 + int(digits[-4000:])
