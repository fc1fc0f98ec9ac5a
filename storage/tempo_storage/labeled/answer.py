"""Read the accepted answers of a line: the final answer, not the solution around it."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tempo_storage.answers.final_answer import Mark, final_answer
from tempo_storage.labeled.fields import ANSWERS, REFERENCE, SOLUTIONS, Entry, is_empty
from tempo_storage.labeled.refusal import refuse
from tempo_storage.labeled.strict_json import as_text

EMPTY = "an empty answer; write one or remove the line"
MAX_REFERENCE_CHARACTERS = 2_048
MAX_REFERENCES = 64
MAX_ANSWER_WORDS = 40  # more of them are a solution
MAX_SHORT_WORDS = 8  # so many words of a solution are its answer
SENTENCES = re.compile(r"[.!?]\s+\S|\n")  # more than one sentence or line
# The end of a sentence and the beginning of the next one, but no abbreviation as in "Dr. No".
NEXT_SENTENCE = re.compile(r"(?:\d|[a-z]{3})[.!?]\s+[A-Z]")
# Entries of an object that has tests of a program or of a text's form, not an answer.
TESTS = frozenset({"inputs", "outputs", "func_name", "fn_name", "test_list", "test_cases"})
# Texts by which data sets say that a question has no answer that could be compared.
NO_ANSWERS = frozenset({"proof", "notfound", "not found", "n/a", "nan", "null"})
# The entry of an object that has the answer; its other entries say where it stands, for example.
ENTRIES = ("value", "text", "spans", "answer", "final_answer", "ground_truth", "target", "number")
ALIASES = ("aliases", "normalized_aliases")
BOOLEAN_NAMES = (*ANSWERS[:6], REFERENCE.name)
BOOLEANS = {True: ["yes", "true"], False: ["no", "false"]}


@dataclass(frozen=True, slots=True)
class Answer:
    """The accepted answers, of which each is right."""

    texts: list[str]
    is_extracted: bool = False
    """Whether the file has more text around them."""
    is_object: bool = False
    """Whether the answer is a JSON object, which is compared as JSON."""


def read_answer(entry: Entry, *, has_verifier: bool) -> Answer:
    """Return the accepted answers in a field; raise LineRefusedError if it has none.

    `reference_answer` is kept as it is. In the other fields the text may be a worked solution, of
    which the final answer counts. `has_verifier` says that the line names a verifier: it may take
    any text as a reference.
    """
    name = entry.name
    value = entry.value
    if not has_verifier:
        value = _of_json(value, name)
    if isinstance(value, bool) and entry.alias in BOOLEAN_NAMES:
        return Answer(BOOLEANS[value])
    if isinstance(value, dict) and _answer_entry(value) is None:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        return Answer(_bounded([text], name, value), is_object=True)
    texts = _texts(value, name)
    if name == REFERENCE.name:
        return Answer(_bounded(texts, name, value))
    answers = [_extracted(text, entry, has_verifier=has_verifier) for text in texts]
    if not has_verifier and any(answer.casefold() in NO_ANSWERS for answer in answers):
        message = "no answer that a response could be compared with; remove the line"
        refuse("no_answer", message, name, value)
    return Answer(_bounded(answers, name, value), is_extracted=answers != texts)


def _of_json(value: Any, name: str) -> Any:
    """Return the only text of a JSON list, as in `["34"]`, and all else as it is; refuse tests."""
    decoded = value
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            decoded = json.loads(value)
    if isinstance(decoded, dict) and TESTS & decoded.keys():
        message = "tests, but no answer; remove the line, or name a verifier that reads them"
        refuse("no_answer", message, name, value)
    is_text = isinstance(decoded, list) and len(decoded) == 1 and isinstance(decoded[0], str)
    return decoded if is_text and name != REFERENCE.name else value


def _texts(value: Any, name: str) -> list[str]:
    """Return the texts of a value; numbers as they are written."""
    if isinstance(value, dict):
        key = _answer_entry(value)
        if key == "spans" and isinstance(value[key], list) and len(set(map(str, value[key]))) > 1:
            message = "all spans together are the answer; write it as one text"
            refuse("several_spans", message, name, value)
        aliases = [one for name in ALIASES for one in value.get(name) or [] if isinstance(one, str)]
        return [*_texts(value[key], f"{name}.{key}"), *aliases]
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, dict) and "content" in item for item in items):
        items = [items[-1]["content"]]  # the answer of a preferred chat
    if name != REFERENCE.name and all(_is_span(item) for item in items):  # SQuAD's own form
        items = [item["text"] for item in items]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        message = "an answer is a text, a number, or a list of those; write it as a text"
        refuse("invalid_reference", message, name, value)
    return [as_text(item) for item in items]


def _is_span(item: Any) -> bool:
    return isinstance(item, dict) and {"text", "answer_start"} <= item.keys()


def _answer_entry(value: dict[str, Any]) -> str | None:
    """Return the name of the entry that has the answer, where an object surely has one."""
    entries = [entry for entry in ENTRIES if value.get(entry) is not None]
    entries.sort(key=lambda entry: is_empty(value[entry]))
    is_sure = len(value) == 1 or any(
        key in value for key in (*ALIASES, "answer_start", "spans", "unit")
    )
    return entries[0] if entries and is_sure else None


def _extracted(text: str, entry: Entry, *, has_verifier: bool) -> str:
    """Return the final answer of a solution; another text as it is, without its reasoning."""
    reasoning, _, rest = text.rpartition("</think>")
    text = rest.strip() if reasoning else text
    final = final_answer(text)
    if final.mark is not Mark.LAST_LINE:
        return final.text or text
    bare = text.strip()
    if len(bare) > 2 and bare[0] == bare[-1] == "$" and "$" not in bare[1:-1]:
        return bare[1:-1]
    is_solution = entry.alias in SOLUTIONS
    max_words = MAX_SHORT_WORDS if is_solution else MAX_ANSWER_WORDS
    is_long = len(bare.split(maxsplit=max_words)) > max_words
    if is_solution:
        is_long = is_long or SENTENCES.search(bare) is not None
    elif len(bare.split(maxsplit=MAX_SHORT_WORDS)) > MAX_SHORT_WORDS:
        is_long = is_long or NEXT_SENTENCE.search(bare) is not None
    if is_long and not has_verifier:
        message = r"a solution without a final answer; put it into \boxed{}, or add 'answer'"
        refuse("no_final_answer", message, entry.name, text)
    return text


def _bounded(texts: list[str], name: str, value: Any) -> list[str]:
    distinct = list(dict.fromkeys(texts))
    if isinstance(value, dict):  # the aliases of TriviaQA are many; the first ones are the best
        distinct = distinct[:MAX_REFERENCES]
    characters = max(map(len, distinct), default=0)
    problem = ""
    if not 1 <= len(distinct) <= MAX_REFERENCES:
        problem = f"{len(distinct)} accepted answers; give 1 to {MAX_REFERENCES}"
    elif not all(text.strip() for text in distinct):
        problem = EMPTY
    elif characters > MAX_REFERENCE_CHARACTERS:
        problem = f"{characters:,} characters; give at most {MAX_REFERENCE_CHARACTERS:,}"
    if problem:
        refuse("invalid_reference", problem, name, value)
    return distinct
