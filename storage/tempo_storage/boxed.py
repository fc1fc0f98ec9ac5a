"""Read the answer in the box of a worked solution. Uploads and verifiers read the same box."""

import re

BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` with balanced braces, or None."""
    for match in reversed(list(BOXED.finditer(text))):
        if end := _closing_brace(text, match.end()):
            return text[match.end() : end].strip()
    return None


def _closing_brace(text: str, start: int) -> int | None:
    """Return the index of the brace that closes the one before `start`."""
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None
