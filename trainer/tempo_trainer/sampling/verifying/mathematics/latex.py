r"""Write an answer in one plain notation, so that `\dfrac12`, `½` and `1/2` are read alike.

Words of `\text{…}` are put between ⟦ and ⟧, so that a unit or a name is no product of letters.
"""

import re
import unicodedata

from tempo_storage.answers.numbers import MINUS, PLAIN_DIGITS, RAISED, VULGAR
from tempo_storage.answers.plain_text import vocabulary

MAX_CHARACTERS = 8192

SIGNS = {
    "√": r"\sqrt ", "∛": r"\cbrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ",
    "∓": r"\mp ", "°": r"^\circ ", "÷": "/", "≈": r"\approx ", "ℝ": r"\mathbb{R}", "⟨": "(",
    "⟩": ")", "∨": r"\lor ", "∧": r"\land ", "→": r"\to ", "…": r"\ldots ", "，": ",", "；": ";",
    "、": ",", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∘": r"\circ ", "≡": r"\equiv ",
}  # fmt: skip
SIGN = re.compile("|".join(SIGNS))
NAMES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge", "neq": "ne", "lt": "<",
    "gt": ">", "varnothing": "emptyset", "cdots": "ldots", "dots": "ldots", "dotsc": "ldots",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "vert": "|", "lvert": "|",
    "rvert": "|", "mid": "|", "times": "*", "cdot": "*", "ast": "*", "div": "/", "land": "⟦and⟧",
    "colon": ":", "degree": "^circ", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "langle": "(", "rangle": ")", "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta",
    "approx": "approx", "simeq": "approx", "infin": "infty", "Reals": "reals", "to": "to",
    "implies": ",", "Rightarrow": ",", "lor": "⟦or⟧",
}  # fmt: skip
DROPPED = vocabulary(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr displaystyle textstyle limits",
    "nolimits quad qquad bf rm it sf tt bfseries mathstrut nonumber notag hfill centering",
)
ODD_DOLLAR = re.compile(r"\$(?=\s*[\d.])|(?<=\d)\s*\$")
SPACING = re.compile(r"\\[;:!>]|\\(?=\s)|[~\u00a0\u2009\u202f]")
THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\{,\}\s?|,\\[!,])(?=\d{3}(?!\d))")
GROUPS = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?![\d./])")
TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|bm|mbox|hbox"
    r"|boldsymbol|operatorname|emph|vec|hat|overline|bar|underline)\*?\s*\{([^{}]*)\}"
)
UNWRAPPED = re.compile(
    r"\\(?:boxed|fbox|mathbf|bm|boldsymbol|vec|displaystyle|mathrm|ensuremath)\s*(?=\{)"
)
ERASED = re.compile(
    r"\\(?:phantom|hphantom|vphantom|tag|label|hspace|vspace|color|textcolor)\*?\s*\{[^{}]*\}"
)
BLACKBOARD = re.compile(r"\\(?:mathbb|mathbf|Bbb)\s*\{?\s*([RZQNC])\s*\}?(?![A-Za-z])")
FIGURE = re.compile(
    r"\\(triangle|angle|odot|parallelogram|square|overrightarrow)\s*\{?([A-Z]{1,6})\}?"
)
COMMAND = re.compile(r"\\([A-Za-z]+)")
POWER_TEN = re.compile(r"(?<=[\d.])\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
FUNCTIONS = vocabulary(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh log ln lg exp sqrt cbrt max min gcd lcm",
    "arcsin arccos arctan abs det",
)


def plain_notation(text: str) -> str:
    """Return an answer in plain notation; of more than 8,192 characters only the first ones."""
    text = text[:MAX_CHARACTERS].replace("**", "^")
    # A double backslash ends a matrix's row; elsewhere it is a backslash that was escaped twice.
    text = text.replace("\\\\", " ↵ " if r"\begin{" in text else "\\")
    text = VULGAR.sub(_vulgar, text)
    text = RAISED.sub(lambda m: "^{" + m[0].translate(PLAIN_DIGITS) + "}", text)
    text = SIGN.sub(lambda m: SIGNS[m[0]], text)
    text = unicodedata.normalize("NFKC", text).translate(MINUS)
    text = THOUSANDS.sub("", ERASED.sub("", text)).replace("{,}", ",")
    text = _without_dollars(SPACING.sub("", text)).replace(r"\,", " ")
    text = BLACKBOARD.sub(lambda m: rf"\set{m[1]} ", text)
    for _ in range(3):  # \textbf{\text{…}}
        text = TEXT.sub(_marked, text)
    text = re.sub(r"(?<=\d)\s*\\Omega\b", "⟦Ω⟧", text)
    text = FIGURE.sub(r"⟦\1·\2⟧", UNWRAPPED.sub("", text))
    text = GROUPS.sub(lambda m: m[0].replace(" ", ""), POWER_TEN.sub("*", text))
    return " ".join(COMMAND.sub(_command, text).split())


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _without_dollars(text: str) -> str:
    r"""Drop the delimiters of formulas; a `\$` or a `$` before or after a number is money."""
    text = (
        text.replace(r"\$", "¤")
        .replace(r"\(", " ")
        .replace(r"\)", " ")
        .replace(r"\[", " ")
        .replace(r"\]", " ")
    )
    if text.count("$") % 2:
        text = ODD_DOLLAR.sub("¤", text, count=1)
    return text.replace("$", " ")


def _marked(match: re.Match[str]) -> str:
    content = match[1].strip()
    name = match[0][1:].partition("{")[0].strip("* ")
    if name in ("vec", "hat", "overline", "bar", "underline") or not content:
        return (
            f" {content} " if name in ("underline",) else f"⟦{name}·{content}⟧" if content else " "
        )
    if content in FUNCTIONS:
        return f"\\{content} "
    if re.fullmatch(r"[\W\d_]*", content) or (len(content) == 1 and name != "text"):
        return f" {content} "
    if "⟦" in content or "\\" in content:
        return f" {content} "
    return f" ⟦{content}⟧ "


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in DROPPED:
        return " "
    other = NAMES.get(name, name)
    if not other[0].isalpha():
        return f" {other} " if other[0] != "^" else "^\\circ "
    return f"\\{other} "
