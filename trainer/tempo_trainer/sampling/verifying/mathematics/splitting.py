"""Split a text in plain notation outside of its brackets, and read the parts as expressions."""

import re
from collections.abc import Iterator

from tempo_trainer.sampling.verifying.mathematics.expressions import Tree, variables
from tempo_trainer.sampling.verifying.mathematics.quantities import Quantity, quantity

OPENING = "([{⟦"
CLOSING = ")]}⟧"
SEPARATOR = re.compile(r",|;|\|\||⟦\s*(?:,\s*)?(?:and|or)\s*⟧|\b(?:and|or)\b")
RELATION = re.compile(r"\\(?:le|ge|ne|approx|in|equiv|sim)(?![A-Za-z])|<=|>=|!=|[=<>]")
THOUSANDS = re.compile(r"[-+]?¤?\s*\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def closes_at_end(text: str) -> bool:
    """Tell whether the first bracket of a text is closed by the last one."""
    depth = 0
    for index, character in enumerate(text):
        if character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
            if depth == 0:
                return index == len(text) - 1
    return False


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Return the parts of a text between separators outside of all brackets."""
    parts = []
    start = 0
    for begin, end in outer_matches(text, separator):
        parts.append(text[start:begin])
        start = end
    parts.append(text[start:])
    return parts if separator is RELATION else [part for part in parts if part.strip(" .")]


def outer_matches(text: str, separator: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each separator that stands outside of all brackets."""
    depth = 0
    position = 0
    for match in separator.finditer(text):
        depth += _depth_change(text[position : match.start()])
        position = match.end()
        if depth == 0:
            yield match.start(), match.end()


def _depth_change(text: str) -> int:
    return sum(map(text.count, OPENING)) - sum(map(text.count, CLOSING))


def separators_of(text: str) -> str:
    """Return the separators of a text that stand outside of all brackets."""
    return "".join(text[start:end] for start, end in outer_matches(text, SEPARATOR))


def is_bracketed(text: str) -> bool:
    """Tell whether brackets stand around all of a text, also those of a half-open interval."""
    is_open = text[0] in "([]" or text.startswith(r"\{")
    is_closed = text[-1] in ")][" or text.endswith(r"\}")
    if text[0] == "]" or text[-1] == "[":
        return is_open and is_closed
    return is_open and is_closed and closes_at_end(text.replace(r"\{", "{").replace(r"\}", "}"))


def quantity_of(text: str) -> Quantity | None:
    """Return the quantity of a text; None for a word, which is no product of its letters."""
    number = quantity(text)
    is_word = re.fullmatch(r"[A-Za-z ]{2,}", text) is not None
    return None if is_word and number and variables(number.tree) else number


def tree_of(text: str) -> Tree | None:
    """Return the tree of an expression, or None for another text."""
    text = text.strip()
    number = quantity(text.replace(",", "") if THOUSANDS.fullmatch(text) else text)
    return None if number is None else number.tree


def is_constant(text: str) -> bool:
    """Tell whether a text is an expression without variables."""
    tree = tree_of(text)
    return tree is not None and not variables(tree)
