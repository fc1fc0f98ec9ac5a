"""Tell from hashes whether two questions are the same, by three keys.

`content_hash` is the strict key, the identity of a question. It covers all messages with their
roles. Texts that differ in white space, in the width of characters (6 and ６) or in the canonical
form of Unicode have one hash. Case, superscripts, units, system message and earlier turns make
other questions. The ledger finds duplicates and conflicts by this key.

`loose_hash` covers the text of the last user message only, and ignores how a question is dressed:
case, courtesies, articles, the punctuation of sentences, and the spaces around an operator. It
never ignores a number, a sign of mathematics or another word. The ledger keeps labeled questions
out of the unlabeled pool by this key. Similarity of texts would not do: a long instruction with one
short item in it is nearly the same text for every item, but each item makes another question.

`pool_hash` is the loose key of the last message behind the same earlier messages. Questions of
users that agree in it count once.

Each key takes time in proportion to the length of the text, whatever the text is.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tempo_storage.normal_form import normal

Messages = Sequence[Mapping[str, Any]]

# Raised characters, or lowered ones, and the character after them if it belongs to a word.
SCRIPT = re.compile(r"(?:([¹²³⁰ⁱ⁴-ⁿʰ-ʸᴬ-ᵡ]++)|([₀-₎ₐ-ₜᵢ-ᵪ]++))(?=(\w?))")
NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
FRACTION = re.compile("([¼-¾⅐-⅞↉])")
SIGNS = str.maketrans(
    dict.fromkeys("−–—‐‑", "-")
    | dict.fromkeys("×∗", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("“”„«»", '"')
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("¿¡。、", " ")
    | {ord("؟"): "?", ord("،"): ",", ord("؛"): ";"}
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", "")  # not visible
)
SPACED_OPERATOR = re.compile(r" ([-+*/=<>^%·]) ")
# At the ends of sentences and clauses, but not in numbers and formulas: 3!, 3.5 and 0.9... have a
# meaning.
PUNCTUATION = re.compile(
    r"(?<=[^\W\d_]{2})[.,;:!?]+(?=\s|$)|(?<=[\w)\]}%°'\"$!])(?:\.?\?+|\.)(?=\s|$)"
)
CONTRACTED_IS = re.compile(r"\b(what|who|where|how|when|that|it|there)['’]s\b")
LEADING_COURTESY = re.compile(
    r"(?:(?:hi|hello|hey)(?: there)?|dear assistant|good (?:morning|afternoon|evening|day)|ok|okay"
    r"|excuse me|sorry|(?:quick )?question|q:|please|pls|kindly|thanks|thank you"
    r"|(?:can|could|would|will) you|tell me|help me(?: with)?|i(?: woul|')d like to know"
    r"|i want to know|do you know) "
)
TRAILING_COURTESIES = (  # a longer one before its own end
    *(" please", " pls", " many thanks", " thanks", " thank you", " thx", " cheers"),
    *(" thank you very much", " thank you so much", " in advance", " answer", " a:"),
    *(" let's think step by step", " think step by step", " /think", " /no_think"),
)
QUOTES = ("**", "'", '"', "`")
ARTICLES = re.compile(r"\b(?:an?|the) (?=[^\W\d_]{2})")

# The key of version 0.1. It joined 3² and 32, and knew fewer courtesies.
OLD_PUNCTUATION = re.compile(
    r"(?<=[^\W\d_]{2})[.,;:!…]+(?=\s|$)|(?<=[\w)])\?+(?=\s|$)|(?<=[^\W_])\.+$"
)
OLD_LEADING = re.compile(
    r"(?:(?:hi|hello|hey) )?(?:please )?(?:(?:can|could|would|will) you )?(?:please )?"
    r"(?:tell me )?"
)
OLD_TRAILING = (" please", " thanks", " thank you")


def content_hash(messages: Messages) -> str:
    """Return the strict key: the sha256 of all messages with their roles."""
    texts = [
        [str(message.get("role")), _folded(_narrow(text_of(message.get("content"))))]
        for message in messages
    ]
    return _sha256(json.dumps(texts))


def loose_hash(messages: Messages) -> str:
    """Return the loose key: the sha256 of the undressed text of the last user message."""
    text = _user_text(messages)
    # NFKC would turn 3² into 32 and 3½ into 31/2.
    text = FRACTION.sub(r" \1", SCRIPT.sub(_written_out, text))
    text = _folded(normal("NFKC", text).casefold().translate(SIGNS))
    text = _unquoted(SPACED_OPERATOR.sub(r"\1", text))
    plain = _folded(PUNCTUATION.sub("", CONTRACTED_IS.sub(r"\1 is", text))).rstrip(" ?")
    bare = ARTICLES.sub("", _without_courtesies(plain)).rstrip(" ?,;:")
    return _sha256(bare.strip() or text)  # a question may consist of courtesies only


def pool_hash(messages: Messages) -> str:
    """Return the key by which users' questions count once; a user speaks last in them."""
    loose = loose_hash(messages)
    return _sha256(content_hash(messages[:-1]) + loose) if len(messages) > 1 else loose


def old_hash(messages: Messages) -> str:
    """Return the only key of version 0.1, for questions of which the ledger has just that key."""
    text = _folded(normal("NFKC", _user_text(messages)).casefold())
    plain = _folded(OLD_PUNCTUATION.sub("", CONTRACTED_IS.sub(r"\1 is", text)))
    start = OLD_LEADING.match(plain)
    plain = _without_ends(plain[start.end() :] if start else plain, OLD_TRAILING)
    return _sha256(ARTICLES.sub("", plain).strip() or text)


def text_of(content: Any) -> str:
    """Return the text of a message's content: a text, or a list of parts with a text each."""
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content)
    return str(content)


def _user_text(messages: Messages) -> str:
    contents = [message["content"] for message in messages if message.get("role") == "user"]
    return text_of(contents[-1]) if contents else ""


def _written_out(script: re.Match[str]) -> str:
    """Return raised characters after ^ and lowered ones after _, apart from what follows."""
    raised, lowered, following = script.groups()
    text = f"^{raised}" if raised else f"_{lowered}"
    return f"{text} " if following else text


def _narrow(text: str) -> str:
    return normal("NFC", text.translate(NARROW))


def _folded(text: str) -> str:
    """Return a text with one space for each run of white space."""
    return " ".join(text.split())


def _unquoted(text: str) -> str:
    """Return a text without the quotation marks, or the asterisks, around the whole of it."""
    for mark in QUOTES:
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            return text[len(mark) : -len(mark)].strip()
    return text


def _without_courtesies(text: str) -> str:
    start = 0
    while courtesy := LEADING_COURTESY.match(text, start):
        start = courtesy.end()
    return _without_ends(text[start:], TRAILING_COURTESIES)


def _without_ends(text: str, endings: Sequence[str]) -> str:
    """Return a text without these endings, however many of them follow one another."""
    end = len(text)
    while ending := next((e for e in endings if text.endswith(e, 0, end)), ""):
        end -= len(ending)
    return text[:end]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
