"""Read one line of a labeled file: its accepted fields and names, and the bounds of its values."""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from tempo_storage.boxed import boxed
from tempo_storage.errors import TempoError
from tempo_storage.question_hash import content_hash

MAX_LINE_BYTES = 1024 * 1024
MAX_MESSAGES = 32
MAX_TEXT_CHARACTERS = 32_768
MAX_REFERENCE_CHARACTERS = 2_048
MAX_REFERENCES = 64
MAX_DEPTH = 16
MAX_TEMPLATE_ARGUMENTS = 32
MAX_TEMPLATE_BYTES = 4 * 1024
MAX_SHOWN_CHARACTERS = 64  # of a name in a message
TAIL_CHARACTERS = 4_096  # the end of a worked solution, where its answer is

DEFAULT_VERIFIER = "math"
ROLES = ("system", "user", "assistant")
FIELDS = frozenset(
    {"messages", "reference_answer", "verifier", "id", "metadata", "chat_template_kwargs"}
)
# The names of other data sets are accepted, too. If a line has several of them, the first one in
# this order counts; the others are kept under metadata, as every unknown field is.
QUESTION_NAMES = ("messages", "question", "prompt", "problem")
REFERENCE_NAMES = ("reference_answer", "answer", "solution", "label", "ground_truth")
SYSTEM_NAMES = ("system", "system_prompt")
# Arguments of the renderer itself. The sampler sets them, or vLLM refuses the question.
RENDERER_ARGUMENTS = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "tokenize", "padding"}
    | {"add_generation_prompt", "continue_final_message", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)
GSM8K_MARK = "####"
PLAIN_NUMBER = re.compile(r"[-+]?\$?[\d,]*\.?\d+%?")


class LineRefusedError(TempoError, ValueError):
    """This line cannot be used, so the whole file is refused; the message says why."""

    def __init__(self, message: str = "", *, code: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Example:
    """A question of a file with its accepted answers, `reference`.

    `reference` is [] for a question without an answer. The verifier gets `details` as metadata, and
    the chat template gets `chat_template_kwargs`.
    """

    line: int
    messages: list[dict[str, str]]
    reference: list[str]
    verifier: str
    details: dict[str, Any]
    content_hash: str
    chat_template_kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on an accepted line that its author may have meant otherwise."""

    code: str
    message: str
    param: str | None = None


def read_line(
    raw: bytes, number: int, *, verifiers: Collection[str], needs_reference: bool = True
) -> tuple[Example, list[Note]]:
    """Return the example of line `number` and the notes on it; raise LineRefusedError.

    `verifiers` are the names of the installed ones. Without `needs_reference` the line may have a
    question and no answer.
    """
    record = _decode(raw)
    _refuse_unstorable(record)
    question_name = _first_name(record, QUESTION_NAMES)
    if question_name is None:
        _refuse("missing_messages", "no 'messages'; add it", "messages")
    reference_name = _first_name(record, REFERENCE_NAMES)
    if reference_name is None and needs_reference:
        _refuse("missing_reference", "no 'reference_answer'; add it", "reference_answer")
    answer = None if reference_name is None else record[reference_name]
    final_answer, verifier = _final_answer(answer, reference_name)
    system_name = _first_name(record, SYSTEM_NAMES)
    fields = FIELDS | {question_name, reference_name, system_name}
    unknown = {name: record[name] for name in sorted(record.keys() - fields)}
    messages = _messages(record[question_name])
    if system_name is not None:
        messages = [*_system_message(record[system_name], system_name, messages), *messages]
    example = Example(
        line=number,
        messages=messages,
        reference=[] if reference_name is None else _reference(final_answer),
        verifier=_verifier(record, verifiers, default=verifier),
        details=_details(record, unknown),
        content_hash=content_hash(messages),
        chat_template_kwargs=_template_arguments(record.get("chat_template_kwargs")),
    )
    aliases = (
        (question_name, "messages"),
        (reference_name, "reference_answer"),
        (system_name, "system"),
    )
    notes = [Note("alias", f"{a!r} is read as {n!r}", a) for a, n in aliases if a not in (n, None)]
    if final_answer is not answer:
        notes.append(Note("worked_solution", "the reference is its final answer", reference_name))
    notes += [Note("unknown_field", "kept under metadata", _shortened(name)) for name in unknown]
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
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        name = _shortened(next(name for name in record if names.count(name) > 1))
        _refuse("duplicate_key", f"{name!r} is there twice; keep one", name)
    return record


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse("invalid_number", f"{text[:32]} is no finite number; write one or a text")
    return value


def _refuse_unstorable(value: Any, depth: int = 1) -> None:
    """Refuse values that databases, templates or tokenizers cannot take, wherever they stand."""
    if depth > MAX_DEPTH:
        _refuse("too_deep", f"nested deeper than {MAX_DEPTH}; flatten it")
    if isinstance(value, str):
        _refuse_unstorable_text(value)
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _refuse_unstorable(item, depth + 1)


def _refuse_unstorable_text(text: str) -> None:
    if "\0" in text:
        _refuse("nul_character", "holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse("lone_surrogate", "holds half a surrogate pair; write the whole character")


# Fields ----------------------------------------------------------------------------------------


def _first_name(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of these names that has a value in the record, if one has."""
    return next((name for name in names if record.get(name) is not None), None)


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


def _system_message(value: Any, name: str, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the message of a line's system prompt; [] for an empty text."""
    if not isinstance(value, str):
        _refuse("invalid_system", f"{name} must be text", name)
    if len(value) > MAX_TEXT_CHARACTERS:
        _refuse("invalid_system", f"longer than {MAX_TEXT_CHARACTERS} characters; shorten it", name)
    if not value.strip():
        return []
    if any(message["role"] == "system" for message in messages):
        message = f"the messages have a system message already; remove it, or {name}"
        _refuse("invalid_system", message, name)
    return [{"role": "system", "content": value}]


def _template_arguments(value: Any) -> dict[str, Any]:
    """Return the arguments of the chat template, small enough to go into each request."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse_template_arguments("chat_template_kwargs must be an object")
    if len(value) > MAX_TEMPLATE_ARGUMENTS:
        _refuse_template_arguments(f"{len(value)} arguments; give at most {MAX_TEMPLATE_ARGUMENTS}")
    for name, argument in value.items():
        if name in RENDERER_ARGUMENTS:
            _refuse_template_arguments(f"{name!r} is no argument of a template; remove it")
        if isinstance(argument, dict | list):
            message = f"{_shortened(name)!r} must be text, a number, true, false or null"
            _refuse_template_arguments(message)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_TEMPLATE_BYTES:
        _refuse_template_arguments("longer than 4 KiB in all; shorten it")
    return value


def _reference(value: Any) -> list[str]:
    accepted = value if isinstance(value, list) else [value]
    if not 1 <= len(accepted) <= MAX_REFERENCES:
        _refuse_reference(f"give 1 to {MAX_REFERENCES} accepted references")
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in accepted):
        _refuse_reference("a reference is text, a number, or a list of those")
    texts = [str(one) for one in accepted]
    if not all(text.strip() and len(text) <= MAX_REFERENCE_CHARACTERS for text in texts):
        _refuse_reference(f"a reference has 1 to {MAX_REFERENCE_CHARACTERS} characters")
    return texts


def _final_answer(value: Any, name: str | None) -> tuple[Any, str]:
    """Return the final answer of a worked solution, and the verifier that suits it.

    A solution of GSM8K ends with `#### 42`, one of MATH has its answer in `\\boxed{…}`. Any other
    value, and each `reference_answer`, is returned unchanged.
    """
    if name == REFERENCE_NAMES[0] or not isinstance(value, str):
        return value, DEFAULT_VERIFIER
    last = value.rpartition(GSM8K_MARK)[2].strip()
    if GSM8K_MARK in value and last:
        return last, "numeric" if PLAIN_NUMBER.fullmatch(last) else DEFAULT_VERIFIER
    return boxed(value[-TAIL_CHARACTERS:]) or value, DEFAULT_VERIFIER


def _verifier(record: dict[str, Any], verifiers: Collection[str], *, default: str) -> str:
    name = record.get("verifier", default)
    if not isinstance(name, str) or name not in verifiers:
        message = f"no verifier {_shortened(name)!r}; installed are {', '.join(sorted(verifiers))}"
        _refuse("unknown_verifier", message, "verifier")
    return name


def _details(record: dict[str, Any], unknown: dict[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        _refuse("invalid_metadata", "metadata must be an object", "metadata")
    line_id = {"id": str(record["id"])} if record.get("id") is not None else {}
    return unknown | metadata | line_id


def _shortened(name: Any) -> str:
    return str(name)[:MAX_SHOWN_CHARACTERS]


def _refuse_template_arguments(message: str) -> NoReturn:
    _refuse("invalid_chat_template_kwargs", message, "chat_template_kwargs")


def _refuse_messages(message: str) -> NoReturn:
    _refuse("invalid_messages", message, "messages")


def _refuse_reference(message: str) -> NoReturn:
    _refuse("invalid_reference", message, "reference_answer")


def _refuse(code: str, message: str, param: str | None = None) -> NoReturn:
    raise LineRefusedError(message, code=code, param=param) from None
