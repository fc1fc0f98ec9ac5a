"""Choose the part of a final answer that is read as mathematics."""

import re
from collections.abc import Iterator

from tempo_storage.answers.final_answer import FinalAnswer, Mark, after_phrase, final_answer
from tempo_storage.answers.numbers import last_number, number_text
from tempo_trainer.sampling.verifying.mathematics.latex import plain_notation
from tempo_trainer.sampling.verifying.mathematics.reading import read
from tempo_trainer.sampling.verifying.mathematics.shapes import Items, Readings, Words

MAX_SENTENCE_CHARACTERS = 1000
FORMULA = re.compile(
    r"\$\$?([^$]{1,1000})\$\$?|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]|\*\*([^*\n]{1,200})\*\*"
)
FONTS = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})*|[$\\{}]")
PROSE = re.compile(r"[A-Za-z]{3,}\s+[A-Za-z]{2,}|[A-Za-z]{2,}\s+[A-Za-z]{3,}")
COPULA = re.compile(
    r".*(?:\b(?:is|are|be|was|were|equals|get|have|obtain|find)\b|[:：是为])\s*(.+)", re.DOTALL
)
SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?。](?=\s+[A-Z\\$*(]|\s*$)|\n")
CLAUSE = re.compile(
    r"\s*(?:,\s*(?:not|so|since|because|as|which|where|i\.e\.|and not|or equivalently)\b"
    r"|\b(?:not|because|since|so|which|i\.e\.|for|when|if|where)\b|\s\([A-Za-z]|\.\s|;\s*[A-Za-z]{3,})"
)
ELLIPSIS = r"\ldots"
SIGNIFICANT = re.compile(r"\w|\\")


def readings_of_response(response: str) -> Readings:
    """Return the readings of a response's final answer: of its first part that is mathematics."""
    answer = final_answer(response)
    words: Readings = ()
    for text in _parts(answer):
        readings = read(plain_notation(text))
        if all(map(is_mathematics, readings)):
            return readings
        words += tuple(shape for shape in readings if isinstance(shape, Words))
    return words


def readings_of_reference(reference: str) -> list[Readings]:
    """Return the readings of a reference as it stands, and of the answer that it ends with."""
    direct = read(plain_notation(reference))
    if all(map(is_mathematics, direct)):
        return [direct]
    answer = final_answer(reference)
    if answer.mark is Mark.LAST_LINE and not _is_sentence(reference):
        return [direct]
    return [direct, readings_of_response(reference)]


def is_mathematics(shape: object) -> bool:
    """Tell whether a shape has no words in it."""
    if isinstance(shape, Items):
        return all(is_mathematics(item) for readings in shape.items for item in readings[:1])
    return not isinstance(shape, Words) or shape.text == ELLIPSIS


def _is_sentence(text: str) -> bool:
    return len(text.split()) > 3 and PROSE.search(text) is not None


def _parts(answer: FinalAnswer) -> Iterator[str]:
    text = answer.text
    if answer.is_exact:
        yield text
        inner = after_phrase(FONTS_OF_WORDS.sub(r"\1", text))
        if inner is not None:
            yield inner.text
        return
    text = (
        text[:MAX_SENTENCE_CHARACTERS]
        if answer.mark is Mark.PHRASE
        else text[-MAX_SENTENCE_CHARACTERS:]
    )
    if answer.mark is Mark.PHRASE:
        yield from _of_phrase(text)
    else:
        yield from _of_line(text)


FONTS_OF_WORDS = re.compile(r"\\(?:text|textbf|mathrm|textrm)\s*\{([^{}]*)\}")


def _of_phrase(text: str) -> Iterator[str]:
    """Yield the parts of what follows "the answer is": whole, or up to an explanation."""
    yield text
    for sentence in SENTENCE_END.split(text)[:1]:
        yield sentence
        if clause := CLAUSE.search(sentence):
            yield sentence[: clause.start()]
    formulas = _formulas(text)
    if formulas and not PROSE.search(FONTS.sub(" ", text[: formulas[0][1]])):
        yield formulas[0][0]
    if match := COPULA.fullmatch(SENTENCE_END.split(text)[0]):
        yield match[1]
    if match := re.match(r"\s*[-+]?[$¤]?\d[\d,.]*(?=\s*(?:[A-Za-z,.;!?(]|$))", text):
        yield match[0]


def _of_line(text: str) -> Iterator[str]:
    """Yield the parts of a last line: its last formula if it is prose, else the whole."""
    formulas = _formulas(text)
    is_prose = PROSE.search(FORMULA.sub(" ", text)) is not None
    if formulas and (is_prose or len(formulas) == 1):
        yield _last_formulas(text, formulas)
    *_, sentence = [s for s in SENTENCE_END.split(text) if s and SIGNIFICANT.search(s)] or [""]
    if is_prose and (match := COPULA.fullmatch(sentence)):
        yield match[1]
        if clause := CLAUSE.search(match[1]):
            yield match[1][: clause.start()]
    yield text
    yield sentence
    if match := COPULA.fullmatch(sentence):
        yield match[1]
    plain = re.sub(r"\([^()]*\)", " ", number_text(sentence))
    if " " in sentence.strip() and (number := last_number(plain)) is not None:
        yield plain[number.start : number.end]


def _formulas(text: str) -> list[tuple[str, int, int]]:
    """Return each formula or bold text with its start and end."""
    return [
        (next(group for group in match.groups() if group), match.start(), match.end())
        for match in FORMULA.finditer(text)
    ]


def _last_formulas(text: str, formulas: list[tuple[str, int, int]]) -> str:
    """Return the last formula, with those before it in `$6$ or $7$`."""
    parts = [formulas[-1][0]]
    for earlier, later in zip(reversed(formulas[:-1]), reversed(formulas[1:]), strict=True):
        joiner = text[earlier[2] : later[1]].strip(" ,")
        if joiner != "or" and (joiner != "and" or not _name_the_same(earlier[0], later[0])):
            break
        parts.append(earlier[0])
    return ", ".join(reversed(parts))


def _name_the_same(left: str, right: str) -> bool:
    """Tell whether two formulas give values of the same variable, or both of none."""
    return left.rpartition("=")[0].strip() == right.rpartition("=")[0].strip()
