"""Decide from the hash of a question's text whether it is known and whether it is held out.

Identity. Two questions are the same if their normalised texts are equal. The normalised text has
no differences of form: Unicode variants, case, white space, punctuation, articles, courtesies. The
sha256 of the normalised text is the question's content hash, and the ledger compares hashes.

Held-out questions. A hash behaves like a random number that never changes. A labeled question is
held out if its first 8 hexadecimal digits are a multiple of 5. This selects one question in five,
the same ones in every file and process, and nobody has to remember the choice. The next 8 digits
are independent of the first; they decide for whom a question is held out, gate or sentinel.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

HELD_OUT_SHARE = 5  # one question in five

# At the ends of sentences and clauses, but not in numbers and formulas: 3! and 3.5 have a meaning.
PUNCTUATION = re.compile(r"(?<=[^\W\d_]{2})[.,;:!…]+(?=\s|$)|(?<=[\w)])\?+(?=\s|$)|(?<=[^\W_])\.+$")
CONTRACTED_IS = re.compile(r"\b(what|who|where|how|when|that|it|there)['’]s\b")
COURTESIES = re.compile(
    r"^(?:(?:hi|hello|hey) )?(?:please )?(?:(?:can|could|would|will) you )?(?:please )?"
    r"(?:tell me )?|(?: (?:please|thanks|thank you))+$"
)
ARTICLES = re.compile(r"\b(?:an?|the) (?=[^\W\d_]{2})")


def content_hash(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the sha256 of the normalised text of the last user message.

    Every number, every sign and every word that is no article and no courtesy changes the hash.
    Similarity of texts would not do: a long instruction with one short item in it is nearly the
    same text for every item, but each item makes another question.
    """
    contents = [message["content"] for message in messages if message.get("role") == "user"]
    text = unicodedata.normalize("NFKC", str(contents[-1]) if contents else "").casefold()
    text = " ".join(text.split())
    # A question that consists of courtesies only is its own normalised text.
    return hashlib.sha256((_without_courtesies(text) or text).encode()).hexdigest()


def is_held_out(question_hash: str) -> bool:
    """Tell whether a labeled question decides promotions instead of training the critic."""
    return int(question_hash[:8], 16) % HELD_OUT_SHARE == 0


def is_for_sentinel(question_hash: str) -> bool:
    """Tell whether a held-out question is in the sentinel's half; the gate has the other half."""
    return int(question_hash[8:16], 16) % 2 == 0


def _without_courtesies(text: str) -> str:
    """Return a text without punctuation, courtesies and articles; "what's" becomes "what is"."""
    plain = " ".join(PUNCTUATION.sub("", CONTRACTED_IS.sub(r"\1 is", text)).split())
    return ARTICLES.sub("", COURTESIES.sub("", plain)).strip()
