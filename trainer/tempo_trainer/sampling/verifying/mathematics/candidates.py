"""Choose the part of a final answer that is read as mathematics."""

import re
from collections.abc import Iterator

from tempo_storage.answers.final_answer import FinalAnswer, Mark, after_phrase, final_answer
from tempo_storage.answers.numbers import last_number, number_text
from tempo_storage.answers.plain_text import plain
from tempo_trainer.sampling.verifying.mathematics.notation import plain_notation
from tempo_trainer.sampling.verifying.mathematics.reader import read
from tempo_trainer.sampling.verifying.mathematics.shapes import Either, Shape, Text, is_mathematics

MAX_SENTENCE_CHARACTERS = 1000
FORMULA = re.compile(
    r"\$\$?([^$]{1,1000})\$\$?|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]|\*\*([^*\n]{1,200})\*\*"
)
FONTS = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})*|[$\\{}]")
PROSE = re.compile(r"[A-Za-z]{3,}\s+[A-Za-z]{2,}|[A-Za-z]{2,}\s+[A-Za-z]{3,}")
COPULA = re.compile(
    r".*(?:(?<!not )\b(?:is|are|be|was|were|equals|get|have|obtain|find)\b|[:：是为])\s*(.+)",
    re.DOTALL,
)
SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?。](?=\s+[A-Z\\$*(]|\s*$)|\n")
CLAUSE = re.compile(
    r"\s*(?:,\s*(?:not|so|since|because|as|which|where|i\.e\.|and not|or equivalently)\b"
    r"|\b(?:not|because|since|so|which|i\.e\.|for|when|if|where)\b|\s\([A-Za-z]|\.\s|;\s*[A-Za-z]{3,})"
)
FONTS_OF_WORDS = re.compile(r"\\(?:text|textbf|mathrm|textrm)\s*\{([^{}]*)\}")
NUMBER = re.compile(r"\s*[-+]?[$¤]?\d[\d,.]*(?=\s*(?:[A-Za-z,.;!?(]|$))")
LEAD = re.compile(
    r"(?:.*\b(?:so|thus|hence|therefore)\b|(?:then|we (?:get|have|find))\b),?\s+", re.I
)
# A remark after the answer: "is 2/3, which is about 0.667".
REMARK = re.compile(r",\s*(?:which|that is|i\.e\.|or (?:about|approximately))\b.*", re.DOTALL)
OPTION = re.compile(r"\(?[A-J][.)]\s+(?=\S)")
SIGNIFICANT = re.compile(r"\w|\\")


def read_response(response: str) -> Shape:
    """Return the shape of a response's final answer: of its first part that is mathematics."""
    texts: list[Text] = []
    for text in _parts(final_answer(response)):
        shape = read(plain_notation(text))
        if is_mathematics(shape):
            return shape
        texts += [shape] if isinstance(shape, Text) else []
    return Either(tuple(texts))


def read_reference(reference: str) -> Shape:
    """Return the shape of a reference, or also that of the answer at the end of a sentence."""
    direct = read(plain_notation(reference))
    if is_mathematics(direct):
        return direct
    answer = final_answer(reference)
    if answer.mark is Mark.LAST_LINE and not _is_sentence(reference):
        return direct
    return Either((direct, read_response(reference)))


def _is_sentence(text: str) -> bool:
    return len(text.split()) > 3 and PROSE.search(text) is not None


def _parts(answer: FinalAnswer) -> Iterator[str]:
    """Yield the parts of an answer that may be its mathematics: the whole, then smaller ones."""
    if answer.is_exact:
        yield answer.text
        inner = after_phrase(FONTS_OF_WORDS.sub(r"\1", answer.text))
        if inner is not None:
            yield inner.text
    elif answer.mark is Mark.PHRASE:
        yield from _of_phrase(answer.text[:MAX_SENTENCE_CHARACTERS])
    else:
        yield from _of_line(answer.text[-MAX_SENTENCE_CHARACTERS:])


def _of_phrase(text: str) -> Iterator[str]:
    """Yield the parts of what follows "the answer is": whole, or up to an explanation."""
    sentence = SENTENCE_END.split(text)[0]
    yield text
    if option := OPTION.match(text):
        yield text[option.end() :]
    yield from _clauses(sentence)
    formulas = list(FORMULA.finditer(text))
    if formulas and not PROSE.search(FONTS.sub(" ", text[: formulas[0].start()])):
        yield _content(formulas[0])
    if match := COPULA.fullmatch(sentence):
        yield match[1]
    if match := NUMBER.match(text):
        yield match[0]


def _of_line(text: str) -> Iterator[str]:
    """Yield the parts of a last line: its last formula if it is prose, else the whole."""
    formulas = list(FORMULA.finditer(text))
    is_prose = PROSE.search(FORMULA.sub(" ", text)) is not None
    if formulas and (is_prose or len(formulas) == 1):
        yield _last_formulas(text, formulas)
    *_, sentence = ["", *(part for part in SENTENCE_END.split(text) if SIGNIFICANT.search(part))]
    sentence = REMARK.sub("", sentence)
    sentence = sentence[lead.end() :] if (lead := LEAD.match(sentence)) else sentence
    match = COPULA.fullmatch(sentence)
    if is_prose and match:
        yield from _clauses(match[1])
    yield text
    yield sentence
    if match:
        yield match[1]
    plain = re.sub(r"\([^()]*\)", " ", number_text(sentence))
    if " " in sentence.strip() and (number := last_number(plain)) is not None:
        yield plain[number.start : number.end]


def _clauses(sentence: str) -> Iterator[str]:
    """Yield a sentence, and its part before an explanation."""
    yield plain(sentence)
    if clause := CLAUSE.search(sentence):
        yield sentence[: clause.start()]


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group)


def _last_formulas(text: str, formulas: list[re.Match[str]]) -> str:
    """Return the last formula, with those before it in `$6$ or $7$`."""
    parts = [_content(formulas[-1])]
    for earlier, later in zip(reversed(formulas[:-1]), reversed(formulas[1:]), strict=True):
        joiner = text[earlier.end() : later.start()].strip(" ,")
        # "$a = 2$ and $b = 7$" has its answer at the end; "$x = 2$ and $x = 7$" are two answers.
        names = {_content(formula).rpartition("=")[0].strip() for formula in (earlier, later)}
        if joiner != "or" and (joiner != "and" or len(names) > 1):
            break
        parts.append(_content(earlier))
    return ", ".join(reversed(parts))
