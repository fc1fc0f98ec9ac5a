"""Read the answer in the box of a worked solution. Uploads and verifiers read the same box."""

import re
from dataclasses import dataclass

# The brace may be missing around one character: `\boxed 7`.
BOX_OR_BRACE = re.compile(
    r"\\\\(?!boxed|fbox|framebox)|\\(?:boxed|fbox|framebox)\s*(?:\{|(?P<bare>[A-Za-z0-9](?![A-Za-z0-9])))|\\[{}]|[{}]"
)


@dataclass(frozen=True, slots=True)
class Box:
    """A complete box: its content, and where it starts and ends in the text."""

    content: str
    start: int
    end: int


def boxes(text: str) -> list[Box]:
    """Return the complete boxes that are in no other complete box, in their order.

    The text is read once, so the time is linear also if no brace is closed.
    """
    complete: list[Box] = []
    open_braces: list[tuple[int, int] | None] = []  # for a box: its start and its content's start
    for match in BOX_OR_BRACE.finditer(text):
        token = match[0]
        if bare := match["bare"]:
            complete.append(Box(bare, match.start(), match.end()))
        elif token == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None:
                start, content = box
                while complete and complete[-1].start > start:
                    complete.pop()
                complete.append(Box(text[content : match.start()].strip(), start, match.end()))
        elif token == "{":
            open_braces.append(None)
        elif token[-1] == "{" and token != r"\{":
            open_braces.append((match.start(), match.end()))
    return complete


def opens_a_box(text: str) -> bool:
    """Tell whether a text starts a box, which may be cut off before its end."""
    return re.search(r"\\(?:boxed|fbox|framebox)\s*\{", text) is not None
