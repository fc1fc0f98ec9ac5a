r"""Write an answer in one plain notation, so that `\dfrac12`, `½` and `1/2` are read alike.

Words stand between ⟦ and ⟧, so that a unit or a name is no product of letters.
"""

import re
import unicodedata

from tempo_storage.answers.numbers import MINUS, PLAIN_DIGITS, RAISED, SCALES, THIN, VULGAR
from tempo_storage.answers.plain_text import vocabulary
from tempo_storage.answers.units import unit_of

MAX_CHARACTERS = 4096

DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|(?:display|text)style|limits|q?quad|bf|rm|it|sf|tt|bfseries"
    r"|nonumber|notag|boxed|fbox|mathrm|mathbf|bm|boldsymbol|ensuremath)(?![A-Za-z])"
    r"|^\s*(?:\\approx|≈|⟦(?:[Tt]he [a-z]{1,20} is|[Aa]pproximately|[Aa]bout)⟧)"
)
VERTICAL = re.compile(r"\\(?:[lr]?vert|mid)(?![A-Za-z])")
DEGREES = re.compile(r"\^?\s*(?:\{\s*(?:\\circ|°)\s*\}|(?:\\circ|\\degree)(?![A-Za-z])|[°∘º])")
FONTS = r"text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mbox|hbox|emph"
TEXT = re.compile(
    rf"\\(?:{FONTS}|operatorname|boldsymbol|bm|underline)\*?\s*\{{((?:[^{{}}]|\{{[^{{}}]{{0,8}}\}}){{0,200}})\}}"
)
FIGURE = re.compile(
    r"(?:\\(?:vec|hat|bar|overline|triangle|angle|odot|mathcal)|[∠△])\s*\{?([A-Z]\w*)\}?"
)
ERASED = re.compile(r"\\(?:[hv]?phantom|tag|label|[hv]space|color|textcolor)\*?\s*\{[^{}]*\}")
SPACING = re.compile(r"\\[;:!>()\[\]]|\\(?=\s)|[~\u00a0\u2009\u202f]")
GROUPS = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3})+(?![\d./])")
ODD_DOLLAR = re.compile(r"\$(?=\s*[\d.])|(?<=\d)\s*\$")
MATRIX = re.compile(
    r"\\begin\s*\{\s*(?:[pbB]?matrix|array)\s*\}(?:\s*\{[clr|\s]*\})?(.*?)\\end\s*\{\s*\w+\s*\}",
    re.S,
)
SYSTEM = re.compile(r"\\begin\s*\{(?:cases|aligned|gathered)\}(.*?)\\end\s*\{\w+\}", re.S)
NAME = re.compile(r"^\s*(?!(?:sin|cos|tan|log|ln)\b)([A-Za-z][A-Za-z ]{2,40}?)\s*(?==)")
JOINED = re.compile(r"\s*,?\s*(?:⟦\W{0,4}(?:and|or)\W{0,4}⟧|(?<![A-Za-z\\])(?:and|or)\b)\s*")
INVERSE = re.compile(r"\\?\b(sin|cos|tan)\s*\^\s*(?:\{\s*-\s*1\s*\}|-1)")
SHORT_FRACTION = re.compile(r"(\\[dtc]?(?:frac|binom))\s*(?:(\d)|(\{[^{}]*\}))\s*(?=\d)(\d)")
MIXED = re.compile(
    r"(?<![\w^.}/])(\d+)\s*(\\[dtc]?frac\s*\{\d+\}\s*\{\d+\}|(?<=\s)\d+\s*/\s*\d+)(?!\s*\^)"
)
BARS = re.compile(r"\|([^|]+)\|")
SCALE = re.compile(rf"(?<=[\d}}])\s*⟦?\b({'|'.join(SCALES)})\b⟧?", re.I)
POWER_TEN = re.compile(r"(?<=[\d.])\s*[xX]\s*(?=10\s*\^)")
GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi"
    " omega Gamma Delta Theta Lambda Sigma Phi Psi Omega"
)
GREEK = dict(zip(GREEK_NAMES.split(), "αβγδεζηθκλμνξρστφχψωΓΔΘΛΣΦΨΩ", strict=True))
GREEK_NAME = re.compile(rf"\\(?:var)?({'|'.join(GREEK)})(?![A-Za-z])")
MICRO = re.compile(r"(?<=\d )\\mu\s*(?=[A-Za-z]{1,3}\W*$)")  # 5 \mu m
SUBSCRIPT = re.compile("(?:(?<=(?<![A-Za-z])[a-zα-ω])|(?<=log))[₀-₉]+")  # x₁, but no H₂O
REALS = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?|ℝ|\\Reals(?![A-Za-z])")
REPEATING = re.compile(r"(\d*)\.(\d*)\s*\\overline\s*\{(\d+)\}")
NOUN = re.compile(
    r"(?:(?<=[\d)}π])|(?<=\\pi))(\s*)[({]?([A-Za-zΩμ°](?:[A-Za-zΩμ°/^{}\d\s.·*]|(?<=[\^{])-)*)[)}]?$"
)
FUNCTIONS = vocabulary(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh log ln lg exp sqrt cbrt abs arcsin",
    "arccos arctan max min gcd lcm det mod pi",
)


def plain_notation(text: str) -> str:
    """Return an answer in plain notation; of more than 4,096 characters only the first ones."""
    text = text[:MAX_CHARACTERS].replace("**", "^")
    # A double backslash ends a matrix's row; elsewhere it is a backslash that was escaped twice.
    text = re.sub(r"\\\\(?:\s*\[[\d.]+e[xm]\])?", "↵" if r"\begin{" in text else r"\\", text)
    text = VULGAR.sub(_vulgar, text)
    text = RAISED.sub(lambda m: "^{" + m[0].translate(PLAIN_DIGITS) + "}", text)
    text = SUBSCRIPT.sub(lambda m: "_{" + m[0] + "}", text)
    text = REALS.sub(lambda _: r"(-\infty,\infty)", text)
    text = unicodedata.normalize("NFKC", text).translate(MINUS).replace("...", r"\ldots ")
    text = THIN.sub("", ERASED.sub("", text)).replace("{,}", ",").replace(r"\$", "¤")
    text = SPACING.sub(" ", text).replace(r"\,", " ")
    text = GREEK_NAME.sub(lambda m: GREEK[m[1]], MICRO.sub("μ", text))
    if text.count("$") % 2:
        text = ODD_DOLLAR.sub("¤", text, count=1)
    text = REPEATING.sub(_repeating, text)
    text = SYSTEM.sub(lambda m: re.sub("↵", ",", m[1]).replace("&", " "), text)
    text = MATRIX.sub(r"⟪\1⟫", text.replace("$", " "))
    for _ in range(3):  # \textbf{\text{…}}
        text = TEXT.sub(_marked, text)
    # Single spaces: the expressions below would take cubic time for a run of them.
    text = " ".join(DROPPED.sub("", FIGURE.sub(r"⟦\1⟧", text)).split())
    return " ".join(_numbers(DEGREES.sub("°", VERTICAL.sub("|", text))).split())


def _numbers(text: str) -> str:
    """Return the text with its numbers, units and lists in plain notation."""
    text = NAME.sub(r"⟦\1⟧", JOINED.sub(" , ", text))
    text = INVERSE.sub(r"\\a\1 ", POWER_TEN.sub("*", text))
    text = re.sub(r"°\s*⟦?([CF])⟧?(?![A-Za-z])", r"⟦°\1⟧", text)
    text = re.sub(r"\b(\d+)⟦?(?:st|nd|rd|th)⟧?\b", r"\1", text)
    for _ in range(2):
        text = SHORT_FRACTION.sub(lambda m: f"{m[1]}{m[3] or '{' + m[2] + '}'}{{{m[4]}}}", text)
    text = MIXED.sub(r"(\1+\2)", GROUPS.sub(lambda m: m[0].replace(" ", ""), text))
    text = SCALE.sub(lambda m: f"*10^{{{SCALES[m[1].lower()]}}} ", BARS.sub(r"{\\abs{\1}}", text))
    return NOUN.sub(_unit, text.rstrip(" .\\"))


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, digits, period = match.groups()
    below = (10 ** len(period) - 1) * 10 ** len(digits)
    return rf"({whole or 0}.{digits or 0}+\frac{{{period}}}{{{below}}})"


def _marked(match: re.Match[str]) -> str:
    content = match[1].strip()
    if content in FUNCTIONS:
        return f"\\{content} "
    if re.match(r"[-+]?\d", content):
        return f" {content} "
    if (len(content) < 2 and not match[0].startswith(r"\text{")) or re.search(
        r"⟦|\\|^[\W\d_]*$", content
    ):
        return f" {content} "
    return f"⟦{content}⟧"


def _unit(match: re.Match[str]) -> str:
    """Return the unit or the noun after a number between ⟦ and ⟧; `2m` stays a product."""
    space, name = match.groups()
    is_unit = unit_of(name) is not None and (space or name[1:2].isalpha())
    is_noun = space and len(name) > 2 and re.fullmatch(r"[A-Za-z][A-Za-z .-]*", name)
    return f" ⟦{name}⟧" if is_unit or is_noun else match[0]
