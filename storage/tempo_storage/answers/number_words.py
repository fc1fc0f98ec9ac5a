"""Numbers as words: seven, twenty-one, one half."""

from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}


def _number_words() -> dict[str, Fraction]:
    units = _SMALL.split()
    words = {word: Fraction(number) for number, word in enumerate(units)}
    for ten, word in enumerate(_TENS.split(), start=2):
        words[word] = Fraction(10 * ten)
        words |= {f"{word} {units[unit]}": Fraction(10 * ten + unit) for unit in range(1, 10)}
    for word, bottom in _PARTS.items():
        words |= {word: Fraction(1, bottom), f"a {word}": Fraction(1, bottom)}
        words[f"one {word}"] = Fraction(1, bottom)
        words |= {f"{units[top]} {word}s": Fraction(top, bottom) for top in range(2, bottom)}
    return words | {"hundred": Fraction(100), "one hundred": Fraction(100)}


NUMBER_WORDS = _number_words()
"""The value of each, by its words with one space between them and without hyphens."""
