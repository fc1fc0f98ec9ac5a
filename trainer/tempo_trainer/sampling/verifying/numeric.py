"""The verifier `numeric` compares numbers."""

import math
import re
from fractions import Fraction
from typing import Any

from tempo_storage.answers.final_answer import FinalAnswer, Mark, final_answer
from tempo_storage.answers.numbers import (
    Number,
    first_number,
    last_number,
    number_text,
    numbers_in,
)
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict

# Six significant digits are enough, but at most six decimals count.
DEFAULT_TOLERANCE = Fraction(5, 10**6)
DEFAULT_DISTANCE = Fraction(1, 10**6)
FLOAT_TOLERANCE = Fraction(1, 10**12)  # the rounding of 64-bit numbers in JSON
ZERO = Fraction(1, 10**9)  # a reference of 0 has no relative distance

PARENTHESES = re.compile(r"\([^()\n]{0,400}\)")
BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?](?=\s+\D)")


class Numeric:
    """The answer is a number within `metadata["tolerance"]`, relative to the reference.

    Without a tolerance a number is equal if its first six digits are, and at most within 0.000001;
    integers are equal only if they are the same.
    """

    name = "numeric"

    def check_reference(self, reference: References) -> str | None:
        """Return an error if a reference has no number."""
        faulty = [one for one in reference if _number_of(final_answer(one)) is None]
        return f"no number in {faulty[0]!r}" if faulty else None

    def check_question(self, reference: References, metadata: Metadata) -> str | None:
        """Return an error also if the tolerance is no number from 0 to below 1."""
        value = metadata.get("tolerance")
        if value is None or (not isinstance(value, str) and _tolerance(value) is not None):
            return self.check_reference(reference)
        return f"metadata.tolerance is {value!r}; give a number from 0 to below 1, as 0.05 for 5%"

    def verify(self, response: str, reference: References, metadata: Metadata) -> Verdict:
        """Compare the number of the final answer."""
        number = _number_of(final_answer(response))
        if number is None:
            return Verdict(False, None, "no number")
        tolerance = _tolerance(metadata.get("tolerance"))
        accepted = [_number_of(final_answer(one)) for one in reference]
        correct = any(other and _is_close(number, other, tolerance) for other in accepted)
        return Verdict(correct, _shown(number.values[0]))


def _number_of(answer: FinalAnswer) -> Number | None:
    text = number_text(answer.text)
    if answer.mark is not Mark.LAST_LINE:
        return first_number(_after_equals(text))
    bold = [part for part in BOLD.findall(text) if numbers_in(part)]
    if bold:
        return first_number(_after_equals(bold[-1]))
    without = PARENTHESES.sub(" ", text)
    return last_number(_after_equals(without if numbers_in(without) else text))


def _after_equals(text: str) -> str:
    """Return the result of a calculation: `3 + 4 = 7 apples` → `7 apples`."""
    sentence = SENTENCE_END.split(text)[0] if "=" in text else text
    after = sentence.rpartition("=")[2]
    return after if "=" in sentence and numbers_in(after) else text


def _tolerance(value: Any) -> Fraction | None:
    """Return a usable tolerance; None for another value, so that the default applies."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return Fraction(number) if math.isfinite(number) and 0 <= number < 1 else None


def _is_close(number: Number, reference: Number, tolerance: Fraction | None) -> bool:
    pairs = [(a, b) for a in number.values for b in reference.values]
    if number.is_percent and not reference.is_percent:  # 20% is 20 percent, or 0.2
        pairs += [(a / 100, b) for a, b in pairs]
    elif reference.is_percent and not number.is_percent:
        pairs += [(a, b / 100) for a, b in pairs]
    return any(_distance_is_small(a, b, tolerance) for a, b in pairs)


def _distance_is_small(value: Fraction, reference: Fraction, tolerance: Fraction | None) -> bool:
    distance = abs(value - reference)
    size = abs(reference)
    if not distance or (not reference and distance <= ZERO):
        return True
    if tolerance is not None:
        return distance <= tolerance * size
    if value.denominator == reference.denominator == 1:
        return False
    return distance <= max(min(DEFAULT_TOLERANCE * size, DEFAULT_DISTANCE), FLOAT_TOLERANCE * size)


def _shown(value: Fraction) -> str:
    """Return the number as decimal digits; integers are exact."""
    if value.denominator == 1:
        return str(value.numerator)
    try:
        return repr(float(value))
    except OverflowError:
        return "inf"
