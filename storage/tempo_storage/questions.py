"""When two questions are the same, and which labeled ones are held out."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

HELD_OUT_SHARE = 5  # one question in five


def content_hash(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the sha256 of the last user text after NFKC, case folding and white-space folding."""
    users = [m["content"] for m in messages if m.get("role") == "user"]
    text = unicodedata.normalize("NFKC", str(users[-1]) if users else "").casefold()
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def is_held_out(question_hash: str) -> bool:
    """Tell whether a labeled question decides promotions instead of training the critic."""
    return int(question_hash[:8], 16) % HELD_OUT_SHARE == 0
