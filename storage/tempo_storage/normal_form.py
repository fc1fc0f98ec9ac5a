"""Normal forms of Unicode in linear time."""

import itertools
import unicodedata
from typing import Any

# No language puts more marks on a letter, and sorting n of them takes time in proportion to n * n.
MAX_MARKS = 30


def normal(form: Any, text: str) -> str:
    """Return a text in a normal form of Unicode; a letter keeps at most 30 of its marks."""
    if text.isascii():
        return text
    runs = itertools.groupby(text, lambda character: unicodedata.combining(character) > 0)
    few_marks = (itertools.islice(run, MAX_MARKS if are_marks else None) for are_marks, run in runs)
    return unicodedata.normalize(form, "".join(itertools.chain.from_iterable(few_marks)))
