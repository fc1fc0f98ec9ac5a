"""When two questions are the same, and which labeled ones are held out."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

HELD_OUT_SHARE = 5  # one question in five

# Ends of sentences and clauses; never within numbers or formulas, where 3! and 3.5 mean something.
PUNCTUATION = re.compile(r"(?<=[^\W\d_]{2})[.,;:!…]+(?=\s|$)|(?<=[\w)])\?+(?=\s|$)|(?<=[^\W_])\.+$")
CONTRACTED_IS = re.compile(r"\b(what|who|where|how|when|that|it|there)['’]s\b")
COURTESIES = re.compile(
    r"^(?:(?:hi|hello|hey) )?(?:please )?(?:(?:can|could|would|will) you )?(?:please )?"
    r"(?:tell me )?|(?: (?:please|thanks|thank you))+$"
)
ARTICLES = re.compile(r"\b(?:an?|the) (?=[^\W\d_]{2})")


def content_hash(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the sha256 of what the last user text asks.

    Unicode form, case, white space, punctuation, articles and courtesies make no difference;
    every number, sign and other word does. Not a similarity of word n-grams: a long instruction
    with one short item in it is nearly the same text for every item, and yet another question.
    """
    users = [m["content"] for m in messages if m.get("role") == "user"]
    text = unicodedata.normalize("NFKC", str(users[-1]) if users else "").casefold()
    text = " ".join(text.split())
    return hashlib.sha256((_gist(text) or text).encode()).hexdigest()


def is_held_out(question_hash: str) -> bool:
    """Tell whether a labeled question decides promotions instead of training the critic."""
    return int(question_hash[:8], 16) % HELD_OUT_SHARE == 0


def is_for_sentinel(question_hash: str) -> bool:
    """Tell which half of the held-out questions is the sentinel's; the gate has the other."""
    return int(question_hash[8:16], 16) % 2 == 0


def _gist(text: str) -> str:
    plain = " ".join(PUNCTUATION.sub("", CONTRACTED_IS.sub(r"\1 is", text)).split())
    return ARTICLES.sub("", COURTESIES.sub("", plain)).strip()
