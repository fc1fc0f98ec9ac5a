"""Read the options of a choice, and the letter of the right one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from string import ascii_uppercase
from typing import Any

from tempo_storage.labeled.fields import INDICES, OPTIONS, Entry, Record, is_empty
from tempo_storage.labeled.refusal import refuse
from tempo_storage.labeled.strict_json import UntypedText, as_text

MAX_MARKS = 64  # of one letter in a question, behind which the option is looked for
MAX_OPTIONS = len(ascii_uppercase)
# A field for each option: A, option_a, option1, opa. A small letter alone may be a variable.
COLUMN = re.compile(r"([A-Z])|(?i:option|choice|opt|op)[\s_-]*([A-Za-z]|[1-9]\d?)")
WHOLE_NUMBER = re.compile(r"\s*-?\d{1,9}(?:\.0*)?\s*")
LETTER = re.compile(r"\W*([A-Za-z])\W*")
LABELED = re.compile(r"\(?([A-Za-z])\s*[).:]\s*(\S.*)", re.DOTALL)
# Options in one text: "a ) 38 , b ) 27", or one on each line.
MARK = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])\s*[).:]\s*")
LIST_REMEDY = "write a list of 2 to 26 texts, or an object with a text for each letter"


@dataclass(frozen=True, slots=True)
class Options:
    """The texts of a question's options, with the labels that the file gives them."""

    texts: list[str]
    labels: list[str]
    names: tuple[str, ...]
    """The fields that hold them."""
    are_numbers: bool = False
    """Whether the file has numbers, not texts; then the answer 3 may be the text or the index."""

    @property
    def lines(self) -> str:
        """The options as they are appended to the question."""
        return "\n".join(f"{ascii_uppercase[n]}. {text}" for n, text in enumerate(self.texts))


def read_options(record: Record) -> Options | None:
    """Return the options of a line, if it has any; raise LineRefusedError for odd ones."""
    entry = record.find(OPTIONS)
    if entry is None or entry.is_empty:
        entry = _answers_with_index(record)
    if entry is None:
        return _columns(record)
    labels, texts = _labels_and_texts(entry.value)
    if not 2 <= len(texts) <= MAX_OPTIONS or not all(_is_text(text) for text in texts):
        message = f"no options to choose from; {LIST_REMEDY}"
        refuse("invalid_options", message, entry.name, entry.value)
    are_numbers = not any(isinstance(text, str) for text in texts)
    texts, labels = _without_marks([as_text(text).strip() for text in texts], labels)
    return Options(texts, labels, (entry.name,), are_numbers)


def is_index(entry: Entry) -> bool:
    """Tell whether a field holds a whole number and, by its name, counts options."""
    return entry.alias in INDICES and WHOLE_NUMBER.fullmatch(as_text(entry.value)) is not None


def append_options(question: str, options: Options) -> str:
    """Return the question with its options below it, unless it lists all of them already."""
    position = 0
    for letter, text in zip(ascii_uppercase, options.texts, strict=False):
        mark = re.compile(rf"\b{letter}\s*[).:](?=(\W{{0,4}}))", re.IGNORECASE)
        marks = islice(mark.finditer(question, position), MAX_MARKS)
        starts = (one.end() + gap for one in marks for gap in range(len(one[1]) + 1))
        end = next((s + len(text) for s in starts if _begins_with(text, question, s)), None)
        if end is None:
            return f"{question}\n{options.lines}"
        position = end
    return question


def _begins_with(text: str, question: str, start: int) -> bool:
    """Tell whether an option's text, in any case, stands at this place of a question."""
    return question[start : start + len(text)].lower() == text.lower()


def letter_of(entry: Entry, options: Options) -> str:
    """Return the letter of the right option; raise LineRefusedError if it is not clear.

    The answer is a label, an option's text, both, or a number that counts the options from 0.
    """
    answer = entry.value
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    indices = {index for index in _candidates(answer, options) if index is not None}
    if len(indices) != 1:
        problem = "more than one option fits" if indices else "no option fits"
        message = f"{problem}; write a letter from A to {ascii_uppercase[len(options.texts) - 1]}"
        refuse("invalid_reference", message, entry.name, answer)
    return ascii_uppercase[indices.pop()]


def _candidates(answer: Any, options: Options) -> list[int | None]:
    """Return the options that an answer may mean, by the first reading that fits one."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return []
    text = as_text(answer).strip()
    label = _index(text, options.labels)
    if label is None and (match := LETTER.fullmatch(text)):
        label = _index(match[1].upper(), [one.upper() for one in options.labels])
    same_text = _index(_folded(text), [_folded(one) for one in options.texts])
    index = int(text) if re.fullmatch(r"\d{1,2}", text) else len(options.texts)
    indexed = index if index < len(options.texts) else None
    if isinstance(answer, UntypedText) or options.are_numbers:
        return [label if label is not None else indexed, same_text]
    if isinstance(answer, str) and (label is not None or same_text is not None):
        return [label, same_text]
    if label is not None:  # the number 1 may be the label of the first option, or count from 0
        return [label] if isinstance(answer, str) else [label, indexed]
    if match := LABELED.fullmatch(text):
        marked = _index(match[1].upper(), options.labels)
        if marked is not None and _folded(options.texts[marked]) == _folded(match[2]):
            return [marked]
    return [same_text if indexed is None else indexed]


def _labels_and_texts(value: Any) -> tuple[list[Any], list[Any]]:
    match value:
        case {"label": list(labels), "text": list(texts)} if len(labels) == len(texts):
            return labels, texts
        case dict():
            return [*value.keys()], [*value.values()]
        case [{"text": _}, *_] if all(isinstance(item, dict) for item in value):
            labels = [item.get("label", item.get("key", "")) for item in value]
            return labels, [item.get("text") for item in value]
        case str():
            texts = _split(value)
            return [*ascii_uppercase[: len(texts)]], texts
        case list():
            return [*ascii_uppercase[: len(value)]], value
    return [], []


def _answers_with_index(record: Record) -> Entry | None:
    """Return the list `answers` where a number beside it counts its entries, as in ReClor."""
    answers = record.find_all(("answers",))
    lists = [entry for entry in answers if isinstance(entry.value, list) and len(entry.value) > 1]
    has_index = any(is_index(entry) for entry in record.find_all(INDICES))
    return lists[0] if lists and has_index else None


def _columns(record: Record) -> Options | None:
    """Return the options that have a field each, from A or 1 on without a gap."""
    columns = {}
    for name, value in record.fields.items():
        match = COLUMN.fullmatch(name)
        if match and not is_empty(value):
            columns[(match[1] or match[2]).upper()] = name
    for labels in (ascii_uppercase, [str(number) for number in range(1, MAX_OPTIONS + 1)]):
        count = next((n for n, label in enumerate(labels) if label not in columns), MAX_OPTIONS)
        names = tuple(columns[label] for label in labels[:count])
        texts = [record.fields[name] for name in names]
        if count >= 2 and all(_is_text(text) for text in texts):
            return Options([str(text).strip() for text in texts], [*labels[:count]], names)
    return None


def _split(text: str) -> list[str]:
    """Return the options of one text that marks them A, B, … in this order; [] if it does not."""
    texts: list[str] = []
    start = None
    for match in MARK.finditer(text):
        letter = ascii_uppercase[min(len(texts) + (start is not None), MAX_OPTIONS - 1)]
        if match[1].upper() != letter:
            continue
        if start is not None:
            texts.append(text[start : match.start()].strip(" ,;\n\t"))
        start = match.end()
    return texts if start is None else [*texts, text[start:].strip(" ,;\n\t")]


def _without_marks(texts: list[str], labels: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return texts without the letters that mark all of them, as in "A) Paris"; and the labels."""
    matches = [LABELED.fullmatch(text) for text in texts]
    letters = [match[1].upper() if match else "" for match in matches]
    if letters == [*ascii_uppercase[: len(texts)]]:
        texts = [match[2].strip() for match in matches if match]
    return texts, [str(label).strip() for label in labels]


def _index(item: str, items: Sequence[str]) -> int | None:
    """Return the index of the only such item."""
    return items.index(item) if items.count(item) == 1 else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value) != ""


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
