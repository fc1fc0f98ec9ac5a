"""Tell from the hash of a question's text whether two questions are the same.

They are the same if their normalised texts are equal. The normalised text has no differences of
form: Unicode variants, case, white space, punctuation, articles, courtesies. The sha256 of the
normalised text is the question's content hash, and the ledger compares hashes.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

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


def _without_courtesies(text: str) -> str:
    """Return a text without punctuation, courtesies and articles; "what's" becomes "what is"."""
    plain = " ".join(PUNCTUATION.sub("", CONTRACTED_IS.sub(r"\1 is", text)).split())
    return ARTICLES.sub("", COURTESIES.sub("", plain)).strip()
