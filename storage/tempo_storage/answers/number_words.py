"""Numbers as words: seven, twenty-one, one half."""

from fractions import Fraction

_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_SMALL = _NAMES.split()[:20]
_TENS = _NAMES.split()[20:]
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}

NUMBER_WORDS = {word: Fraction(number) for number, word in enumerate(_SMALL)}
"""The value of each, by its words with one space between them and without hyphens."""
for _ten, _word in enumerate(_TENS, start=2):
    NUMBER_WORDS[_word] = Fraction(10 * _ten)
    NUMBER_WORDS |= {f"{_word} {_SMALL[unit]}": Fraction(10 * _ten + unit) for unit in range(1, 10)}
for _word, _bottom in _PARTS.items():
    NUMBER_WORDS |= dict.fromkeys([_word, f"a {_word}", f"one {_word}"], Fraction(1, _bottom))
    NUMBER_WORDS |= {f"{_SMALL[top]} {_word}s": Fraction(top, _bottom) for top in range(2, _bottom)}
NUMBER_WORDS |= dict.fromkeys(["hundred", "a hundred", "one hundred"], Fraction(100))
NUMBER_WORDS |= dict.fromkeys(["thousand", "a thousand", "one thousand"], Fraction(1000))
