"""Find the answer in a worked solution: uploads and verifiers must read the same one."""

import re

BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{…}` with balanced braces."""
    for match in reversed(list(BOXED.finditer(text))):
        if end := _closed(text, match.end()):
            return text[match.end() : end].strip()
    return None


def _closed(text: str, start: int) -> int | None:
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end
    return None
