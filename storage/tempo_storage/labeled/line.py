"""One line of a labeled file: what is accepted, under which names, within which bounds."""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from tempo_storage.boxed import boxed
from tempo_storage.errors import TempoError
from tempo_storage.questions import content_hash, is_held_out

MAX_LINE_BYTES = 1024 * 1024
MAX_MESSAGES = 32
MAX_TEXT_CHARACTERS = 32_768
MAX_REFERENCE_CHARACTERS = 2_048
MAX_REFERENCES = 64
MAX_DEPTH = 16
TAIL_CHARACTERS = 4_096  # a worked solution ends with its answer

DEFAULT_VERIFIER = "math"
ROLES = ("system", "user", "assistant")
FIELDS = frozenset({"messages", "reference_answer", "verifier", "id", "metadata"})
# Where a line has several, the first wins and the others are kept under metadata.
QUESTION_NAMES = ("messages", "question", "prompt", "problem")
REFERENCE_NAMES = ("reference_answer", "answer", "solution", "label", "ground_truth")
GSM8K_MARK = "####"
PLAIN_NUMBER = re.compile(r"[-+]?\$?[\d,]*\.?\d+%?")


class LineRefusedError(TempoError, ValueError):
    """This line cannot be used; the whole file is refused, with the line's number."""

    def __init__(self, message: str = "", *, code: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


@dataclass(frozen=True, slots=True)
class Example:
    """A labeled question of a file; `details` is what its verifier gets as metadata."""

    line: int
    messages: list[dict[str, str]]
    reference: list[str]
    verifier: str
    details: dict[str, Any]
    content_hash: str

    @property
    def split(self) -> str:
        """Whether it trains or decides promotions."""
        return "held_out" if is_held_out(self.content_hash) else "train"


@dataclass(frozen=True, slots=True)
class Note:
    """Something accepted that its author may not have meant."""

    code: str
    message: str
    param: str | None = None


def read_line(raw: bytes, number: int, *, verifiers: Collection[str]) -> tuple[Example, list[Note]]:
    """Return the example of a line and the notes on it; raise LineRefusedError."""
    record = _decode(raw)
    _refuse_odd_values(record)
    question, asked = _first(record, QUESTION_NAMES, code="missing_messages")
    reference, answered = _first(record, REFERENCE_NAMES, code="missing_reference")
    final, suited = _final_answer(reference, answered)
    unknown = {key: record[key] for key in sorted(record.keys() - FIELDS - {asked, answered})}
    messages = _messages(question)
    example = Example(
        line=number,
        messages=messages,
        reference=_reference(final),
        verifier=_verifier(record, verifiers, suited=suited),
        details=_details(record, unknown),
        content_hash=content_hash(messages),
    )
    aliases = ((asked, "messages"), (answered, "reference_answer"))
    notes = [Note("alias", f"{a!r} is read as {n!r}", a) for a, n in aliases if a != n]
    if final is not reference:
        notes.append(Note("worked_solution", "the reference is its final answer", answered))
    notes += [Note("unknown_field", "kept under metadata", key[:64]) for key in unknown]
    return example, notes


# JSON, stricter than json.loads ----------------------------------------------------------------


def _decode(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        _refuse("line_too_long", "the line is longer than 1 MiB; shorten it")
    try:
        record = json.loads(
            raw.decode(), object_pairs_hook=_object, parse_constant=_float, parse_float=_float
        )
    except LineRefusedError:
        raise
    except UnicodeDecodeError as error:
        _refuse("invalid_utf8", f"byte {error.start} is not UTF-8; save the file as UTF-8")
    except RecursionError:
        _refuse("too_deep", f"nested deeper than {MAX_DEPTH}; flatten it")
    except ValueError as error:
        _refuse("invalid_json", f"not JSON ({str(error)[:100]}); write one object a line")
    if not isinstance(record, dict):
        _refuse("invalid_json", "not a JSON object; write one object a line")
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)[:64]
        _refuse("duplicate_key", f"{twice!r} is there twice; keep one", twice)
    return made


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse("invalid_number", f"{text[:32]} is no finite number; write one or a text")
    return value


def _refuse_odd_values(value: Any, depth: int = 1) -> None:
    """Refuse what databases, templates and tokenizers choke on, wherever in the line it is."""
    if depth > MAX_DEPTH:
        _refuse("too_deep", f"nested deeper than {MAX_DEPTH}; flatten it")
    if isinstance(value, str):
        _refuse_odd_text(value)
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _refuse_odd_values(item, depth + 1)


def _refuse_odd_text(text: str) -> None:
    if "\0" in text:
        _refuse("nul_character", "holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse("lone_surrogate", "holds half a surrogate pair; write the whole character")


# Fields ----------------------------------------------------------------------------------------


def _first(record: dict[str, Any], names: tuple[str, ...], *, code: str) -> tuple[Any, str]:
    for name in names:
        if record.get(name) is not None:
            return record[name], name
    _refuse(code, f"no {names[0]!r}; add it", names[0])


def _messages(value: Any) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        _refuse_messages(f"give a list of 1 to {MAX_MESSAGES} messages")
    for message in messages:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            _refuse_messages("a message has a role and a content, and nothing else")
        if message["role"] not in ROLES or not isinstance(message["content"], str):
            _refuse_messages("a role is system, user or assistant, and a content is text")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        _refuse_messages("the last message must be the user's, and not empty")
    if sum(len(message["content"]) for message in messages) > MAX_TEXT_CHARACTERS:
        _refuse_messages(f"longer than {MAX_TEXT_CHARACTERS} characters in all; shorten them")
    return messages


def _reference(value: Any) -> list[str]:
    accepted = value if isinstance(value, list) else [value]
    if not 1 <= len(accepted) <= MAX_REFERENCES:
        _refuse_reference(f"give 1 to {MAX_REFERENCES} accepted references")
    if any(isinstance(a, bool) or not isinstance(a, str | int | float) for a in accepted):
        _refuse_reference("a reference is text, a number, or a list of those")
    texts = [str(a) for a in accepted]
    if not all(text.strip() and len(text) <= MAX_REFERENCE_CHARACTERS for text in texts):
        _refuse_reference(f"a reference has 1 to {MAX_REFERENCE_CHARACTERS} characters")
    return texts


def _final_answer(value: Any, name: str) -> tuple[Any, str]:
    """Return what a worked solution ends with, and the verifier that suits it.

    GSM8K closes with `#### 42`, MATH has the answer in `\\boxed{…}`. A `reference_answer` is taken
    as it is.
    """
    if name == REFERENCE_NAMES[0] or not isinstance(value, str):
        return value, DEFAULT_VERIFIER
    _, mark, last = value.rpartition(GSM8K_MARK)
    if mark and last.strip():
        return last.strip(), "numeric" if PLAIN_NUMBER.fullmatch(last.strip()) else DEFAULT_VERIFIER
    return boxed(value[-TAIL_CHARACTERS:]) or value, DEFAULT_VERIFIER


def _verifier(record: dict[str, Any], verifiers: Collection[str], *, suited: str) -> str:
    name = record.get("verifier", suited)
    if not isinstance(name, str) or name not in verifiers:
        message = f"no such verifier; installed are {', '.join(sorted(verifiers))}"
        _refuse("unknown_verifier", message, "verifier")
    return name


def _details(record: dict[str, Any], unknown: dict[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        _refuse("invalid_metadata", "metadata must be an object", "metadata")
    given = {"id": str(record["id"])} if record.get("id") is not None else {}
    return unknown | metadata | given


def _refuse_messages(message: str) -> NoReturn:
    _refuse("invalid_messages", message, "messages")


def _refuse_reference(message: str) -> NoReturn:
    _refuse("invalid_reference", message, "reference_answer")


def _refuse(code: str, message: str, param: str | None = None) -> NoReturn:
    raise LineRefusedError(message, code=code, param=param) from None
