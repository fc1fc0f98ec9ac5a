"""Take away the dress of an answer: markup, quotes, a final period, forms of Unicode."""

import re

from tempo_storage.normal_form import normal

MAX_WRAPPERS = 16  # around one answer; more of them are part of it
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」", "`": "`"}
DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("```", "```"))
FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|bm"
    r"|boldsymbol|mbox|hbox|emph|operatorname|underline|boxed|fbox)\*?\s*\{"
)
TAG = re.compile(
    r"</?(?:b|i|u|p|br|em|strong|code|span|answer|final_answer|mark|sub|sup)\s*/?>", re.I
)
BULLET = re.compile(r"^[-•]\s+(?=[^\W\d_])")
SPACE_AROUND = re.compile(r"\s*([,;:/])\s*")
ENDS = ".。,;:، \t\n"
WORDS_END = ENDS + "!！"  # in mathematics it is a factorial


def vocabulary(*lines: str) -> frozenset[str]:
    """Return the words of some lines."""
    return frozenset(word for line in lines for word in line.split())


def plain(text: str, ends: str = ENDS) -> str:
    r"""Return an answer without its wrappers: `**Paris**.`, `"Paris"` and `\text{Paris}` → `Paris`.

    Only wrappers around the whole answer and punctuation at its end are taken away. Case and
    Unicode stay.
    """
    text = BULLET.sub("", TAG.sub(" ", text).strip())
    for _ in range(MAX_WRAPPERS):
        inner = _without_wrapper(text, ends)
        if inner == text:
            break
        text = inner
    return text


def folded(text: str) -> str:
    """Return the plain text in one Unicode form, without case and needless white space."""
    text = plain(normal("NFKC", plain(text, WORDS_END)), WORDS_END)
    text = text.replace("’", "'").replace("‘", "'").replace("−", "-").replace("‐", "-")
    text = text.replace("–", "-").replace("—", "-").replace("“", '"').replace("”", '"')
    return SPACE_AROUND.sub(r"\1", " ".join(text.casefold().split()))


def one_spaced(text: str) -> str:
    """Return the plain text with its case, and with one space for each white space."""
    return " ".join(plain(text).split())


def _without_wrapper(text: str, ends: str) -> str:
    text = text.strip().rstrip(ends) or text.strip()
    if (bare := text.strip("*")) != text and bare.strip():
        return bare
    if len(text) > 1 and text[0] == "_" == text[-1]:
        return text.strip("_") or text
    if len(text) > 2 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1]
    for start, end in DELIMITERS:
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and inner.strip() and end not in inner:
            return inner
    return _without_font(text)


def _without_font(text: str) -> str:
    r"""Return `Paris` for `\text{Paris}`; the brace must close at the end."""
    match = FONT.match(text)
    if match is None or not text.endswith("}"):
        return text
    depth = 1
    for index in range(match.end(), len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[match.end() : index] if index == len(text) - 1 else text
    return text
