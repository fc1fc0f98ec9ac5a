"""Choose the verifier of a question whose line names none, by its reference and its options."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tempo_storage.answers.numbers import only_number
from tempo_storage.answers.plain_text import plain
from tempo_storage.answers.units import unit_of
from tempo_storage.labeled.refusal import refuse

OPTION_NAMES = ("options", "choices")

MAX_WORDS = 8  # of mathematics; a text with LaTeX and more words is a worked solution

LETTER = re.compile(r"\(?[A-J]\)?")
# A number with one word: "18 eggs", "9 (apples)".
COUNTED = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?\s+\(?(?P<noun>\\?[^\W\d_]+|%)\)?")
MEASURED = re.compile(r"[-+]?\$?[\d.,/ ]*\d\s*(?P<unit>[^\d\s].{0,40})")
DATE_OR_TIME = re.compile(
    r"\d{1,4}(?:[-/.]\d{1,2}[-/.]\d{1,4}|:\d\d(?::\d\d)?(?:\s*[ap]\.?m\.?)?)", re.I
)
# Signs of mathematics. A comma, a hyphen or a slash alone may stand between words, too.
SIGNS = re.compile(r"[\\^=<>≤≥≠±√π∞∪∩∈∅∑∏∫×÷]|[-+*/(\[]\s*\d|\d\s*[-+*/)\]!]|\b\w!|_\d")
RANGE = re.compile(r"\d+\s*[-–—]\s*\d+")
# An address of a computer, a pattern of characters, or a reaction of chemistry.
NO_FORMULA = re.compile(
    r"(?!\d+(?:\.\d{3})+$)\d{1,3}(?:\.\d{1,3}){3}|\^[^\\]*\$|[^\\A-Z]*[A-Z][^\\>]*(?<=[-=])>[^\\]*"
)
SEPARATOR = re.compile(r"\$\s*,\s*\$")  # "$2$,$3$": two formulas, not the number 2.3
PAIR = re.compile(r"\d+(?:,\d{1,2})+")  # two numbers, or one with a decimal comma
WORD = re.compile(r"[^\W\d_]{2,}")
MATH_WORDS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt pi lim max min"
        " gcd lcm mod det and or",
    )
)
# Graders of OpenAI that no verifier replaces.
GRADER_REASONS = {
    "text_similarity": "only its exact part is a verdict, with pass_threshold 1",
    "python": "it runs code of the file",
    "multi": "it joins several scores",
    "score_model": "it asks another model",
    "label_model": "it asks another model",
}
REMEDY = "remove it and name a verifier, or use string_check"
LATEX = re.compile(r"\\[A-Za-z]+")


def choose_verifier(reference: Sequence[str], details: Mapping[str, Any]) -> str:
    """Return `choice`, `numeric`, `math`, `json_equal` or `words`; raise LineRefusedError.

    A line with one of OpenAI's graders gets the verifier that does the same. A question with
    options is a choice. Otherwise the references decide: numbers are compared as numbers,
    mathematics as mathematics, JSON as JSON, and all else as words.
    """
    if isinstance(grader := details.get("grader"), dict):
        return _of_grader(grader)
    if any(details.get(name) for name in OPTION_NAMES):
        return "choice"
    kinds = {_kind(plain(one)) for one in reference}
    if len(kinds) == 1:
        return kinds.pop()
    return "math" if kinds == {"numeric", "math"} else "words"


def _of_grader(grader: Mapping[str, Any]) -> str:
    """Return the verifier for one of OpenAI's graders; raise LineRefusedError for another one."""
    kind = grader.get("type")
    if kind == "string_check":
        return "string_check"
    if kind == "text_similarity" and grader.get("pass_threshold") == 1:
        return "exact"
    reason = GRADER_REASONS.get(str(kind), "it is unknown here")
    refuse("unusable_grader", f"the grader {kind!r}: {reason}; {REMEDY}", "grader", grader)


def _kind(text: str) -> str:
    if LETTER.fullmatch(text):
        return "choice"
    if any(pattern.fullmatch(text) for pattern in (DATE_OR_TIME, RANGE, NO_FORMULA)):
        return "words"
    if PAIR.fullmatch(text) or SEPARATOR.search(text):
        return "math"
    if only_number(text) is not None:
        return "numeric"
    if _is_json(text):
        return "json_equal"
    if (counted := COUNTED.fullmatch(text)) and unit_of(counted["noun"]) is None:
        return "numeric" if counted["noun"].islower() else "words"
    return "math" if _is_mathematics(text) else "words"


def _is_mathematics(text: str) -> bool:
    measure = MEASURED.fullmatch(text)
    if measure and unit_of(_without_fonts(measure["unit"])) is not None:
        return True
    if re.fullmatch(r"[a-z]", text):
        return True  # a variable
    words = {word.casefold() for word in WORD.findall(LATEX.sub(" ", text))}
    if "\\" in text:
        return not _is_prose(text)
    has_digit_list = re.fullmatch(r"[-\d.,;\s]+(?:\s*(?:and|or)\s*[-\d.]+)?", text) is not None
    return words <= MATH_WORDS and (SIGNS.search(text) is not None or has_digit_list)


def _is_prose(text: str) -> bool:
    """Tell whether a text with LaTeX has more words than mathematics, as a worked solution has."""
    return len(WORD.findall(LATEX.sub(" ", text))) > MAX_WORDS


def _without_fonts(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|mbox|textrm|rm)\b\s*|[{}$]|\\[,;!: ]", " ", text)
    return text.replace(r"^\circ", "°").replace(r"\circ", "°").replace(r"\%", "%").strip()


def _is_json(text: str) -> bool:
    if text[:1] not in ("{", "["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict):
        return True
    return not all(isinstance(item, int | float) for item in value)
