"""The verifier `math` compares answers as mathematics."""

import re
from functools import lru_cache

from tempo_storage.answers.final_answer import final_answer
from tempo_storage.answers.plain_text import one_spaced, plain
from tempo_trainer.sampling.verifying.choice import letter_of
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict
from tempo_trainer.sampling.verifying.exact import Words
from tempo_trainer.sampling.verifying.mathematics.candidates import read_reference, read_response
from tempo_trainer.sampling.verifying.mathematics.compare import equal
from tempo_trainer.sampling.verifying.mathematics.shapes import Shape, texts_of

MAX_WORDS = 12  # of a reference without mathematics
OPTION = re.compile(r"\(?([A-J])\)?(?:[.):]\s*(.+))?")
FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|\$")
# 1,234 is a number with a thousands separator.
DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d{1,2}|\d{4,})")
LETTERS = re.compile(r"[^\W\d_]{2,}")


class Math:
    """The answer equals a reference as mathematics: value, unit, order, ends of an interval.

    Values agree to 1,000 digits, and expressions with variables to 100 digits at three points.
    Words, Roman numerals and times are equal only as texts.
    """

    name = "math"

    def __init__(self) -> None:
        self._references = lru_cache(maxsize=1024)(_reference)
        self._words = Words()
        self._references("1")  # makes the parser, before the first verdict's time counts

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference is empty, cut off, or a text without an answer."""
        faulty = [one for one in reference if not _is_usable(one)]
        return f"cannot read {faulty[0]!r} as mathematics" if faulty else None

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the final answer of the response with each reference."""
        answer = final_answer(response).text
        if not answer.strip():
            return Verdict(False, None, "no answer")
        if one_spaced(answer) in map(one_spaced, reference):
            return Verdict(True, answer)
        shape = read_response(response)
        correct = any(self._is_correct(response, answer, shape, one) for one in reference)
        return Verdict(correct, answer)

    def _is_correct(self, response: str, answer: str, shape: Shape, reference: str) -> bool:
        letter, accepted = self._references(reference)
        if letter and letter_of(response) == letter:
            return True
        if any(equal(one, shape) for one in accepted):
            return True
        texts = [text for one in accepted for text in texts_of(one)]
        if texts:
            words = [text for text in texts if LETTERS.search(text) and not re.search(r"\d", text)]
            return bool(words) and self._words.verify(response, words, {}).correct
        return _is_decimal_comma(answer, reference)


def _reference(reference: str) -> tuple[str | None, list[Shape]]:
    """Return the letter of a reference that is an option, and its shapes."""
    text = FONT.sub(r"\1", plain(reference)).strip()
    option = OPTION.fullmatch(text)
    shapes = [read_reference(reference)]
    if option is None:
        return None, shapes
    return option[1], shapes + ([read_reference(option[2])] if option[2] else [])


def _is_decimal_comma(answer: str, reference: str) -> bool:
    """Tell whether a response writes the reference 3.5 as 3,5."""
    match = DECIMAL_COMMA.fullmatch(plain(answer))
    return match is not None and f"{match[1]}.{match[2]}" == plain(reference)


def _is_usable(reference: str) -> bool:
    """Tell whether a reference is mathematics or a few words, and its braces are complete."""
    text = plain(reference)
    if not re.search(r"\w|\\", text) or text.count("{") != text.count("}"):
        return False
    return not texts_of(read_reference(reference)) or len(text.split()) <= MAX_WORDS
