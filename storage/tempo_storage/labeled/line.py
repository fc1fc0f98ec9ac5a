"""Read one row of a labeled file: question, accepted answers, verifier."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from tempo_storage.labeled.answer import Answer, read_answer
from tempo_storage.labeled.chat import Chat, read_chat, refuse_long, system_message
from tempo_storage.labeled.choice_of_verifier import choose_verifier
from tempo_storage.labeled.fields import (
    CONTEXT,
    ID,
    METADATA,
    QUESTION,
    REFERENCE,
    SYSTEM,
    TEMPLATE,
    TOOLS,
    VERIFIER,
    Field,
    Record,
    is_empty,
    is_unusable,
    same_name,
)
from tempo_storage.labeled.options import Options, append_options, letter_of, read_options
from tempo_storage.labeled.refusal import LineRefusedError, Note, refuse, shortened
from tempo_storage.question_hash import content_hash, loose_hash

MAX_TEMPLATE_ARGUMENTS = 32
MAX_TEMPLATE_BYTES = 4 * 1024
DEFAULT_VERIFIER = "math"  # of a question without an answer
CHOICE = "choice"
JSON_VERIFIER = "json_equal"
# Arguments of the renderer itself. The sampler sets them, or vLLM refuses the question.
RENDERER_ARGUMENTS = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "tokenize", "padding"}
    | {"add_generation_prompt", "continue_final_message", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)


@dataclass(frozen=True, slots=True)
class Example:
    """A question of a file with its accepted answers, `reference`.

    `reference` is [] for a question without an answer. The verifier gets `details` as metadata, and
    the chat template gets `chat_template_kwargs`. A choice has the texts of its options, in the
    order of their letters, in `details["options"]`.
    """

    line: int
    messages: list[dict[str, str]]
    reference: list[str]
    verifier: str
    details: dict[str, Any]
    content_hash: str
    loose_hash: str
    chat_template_kwargs: dict[str, Any]
    reference_name: str = REFERENCE.name
    """The field that has the reference, by the name that the file uses."""


class Line:
    """One row while it is read: its record, the names of the fields that are used, and notes."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.record = Record(fields)
        self.names: set[str] = set()
        self.notes: list[Note] = []

    def find(self, field: Field) -> str | None:
        """Return the name of a field that is not used yet, and note an alias."""
        name = self.record.find(field)
        if name is None or name in self.names:
            return None
        self.names.add(name)
        if not same_name(name, field.name):
            self.notes.append(Note("alias", f"{name!r} is read as {field.name!r}", name))
        return name

    def value(self, field: Field) -> Any:
        """Return the value of a field that has no alias; None if the line lacks it."""
        name = self.find(field)
        return None if name is None else self.record.get(name)


def read_record(
    fields: dict[str, Any],
    number: int,
    *,
    verifiers: Collection[str],
    needs_reference: bool = True,
) -> tuple[Example, list[Note]]:
    """Return the example of a row and the notes on it; raise LineRefusedError.

    `number` is the row's line in the file. `verifiers` are the names of the installed ones. Without
    `needs_reference` the row may have a question and no answer.
    """
    line = Line(fields)
    _refuse_unusable(fields)
    chat, question_name = _question(line)
    explicit_verifier = line.value(VERIFIER)
    options = read_options(line.record)
    answer, name = _answer(
        line, chat, question_name, options, explicit_verifier, needs_reference=needs_reference
    )
    messages = _messages(line, chat, question_name, options)
    arguments = _template_arguments(line.value(TEMPLATE))
    details = _details(line, options)
    example = Example(
        line=number,
        messages=messages,
        reference=answer.texts,
        verifier=_verifier(explicit_verifier, answer, details, verifiers),
        details=details,
        content_hash=content_hash(messages),
        loose_hash=loose_hash(messages),
        chat_template_kwargs=arguments,
        reference_name=shortened(name or REFERENCE.name),
    )
    if answer.is_extracted:
        line.notes.append(Note("worked_solution", "the reference is its final answer", name))
    return example, line.notes


def _refuse_unusable(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if is_empty(value):
            continue
        if is_unusable(name):
            message = "a picture, sound or film belongs to the question, which must be text"
            refuse("unusable_field", f"{message}; remove the line", name, value)
        if name in TOOLS:
            message = "the question needs tools, which cannot be called; remove the line"
            refuse("unusable_field", message, name, value)


# Question ----------------------------------------------------------------------------------------


def _question(line: Line) -> tuple[Chat, str]:
    name = line.find(QUESTION)
    if name is None:
        lists = [n for n, value in line.record.fields.items() if _is_list_of_objects(value)]
        if lists:
            message = "no question, but a list of objects; write that list alone as a JSON array"
            refuse("missing_messages", message, lists[0])
        names = ", ".join(list(line.record.fields)[:8])
        message = f"no question (fields: {shortened(names) or 'none'}); add 'question'"
        refuse("missing_messages", message, QUESTION.name)
    chat = read_chat(line.record.get(name), name)
    line.notes += chat.notes
    return chat, name


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _messages(
    line: Line, chat: Chat, question_name: str, options: Options | None
) -> list[dict[str, str]]:
    """Return the messages with context, options and system prompt."""
    *earlier, last = chat.messages
    text = last["content"]
    if isinstance(line.record.get(question_name), str):
        text = _with_context(line, text)
    if options is not None:
        text = append_options(text, options)
        line.names.update(options.names)
        line.notes.append(Note("options", "the options are part of the question", options.names[0]))
    messages = [*earlier, {"role": "user", "content": text}]
    refuse_long(messages, question_name)
    system_name = line.find(SYSTEM)
    if system_name is None:
        return messages
    return [*system_message(line.record.get(system_name), system_name, messages), *messages]


def _with_context(line: Line, question: str) -> str:
    name = line.find(CONTEXT)
    if name is None:
        return question
    value = line.record.get(name)
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        message = "a context is a text or a list of texts; write it as one"
        refuse("invalid_context", message, name, value)
    context = "\n\n".join(part.strip() for part in parts if part.strip())
    if not context or context in question:
        return question
    if same_name(name, "input"):  # Alpaca: the instruction first, then its input
        line.notes.append(Note("context", "the input stands after the question", name))
        return f"{question}\n\n{context}"
    line.notes.append(Note("context", "the context stands before the question", name))
    return f"{context}\n\n{question}"


# Answer ------------------------------------------------------------------------------------------


def _answer(
    line: Line,
    chat: Chat,
    question_name: str,
    options: Options | None,
    verifier: Any,
    *,
    needs_reference: bool,
) -> tuple[Answer, str | None]:
    """Return the accepted answers and the field that has them; the letter of a choice."""
    name = line.find(REFERENCE)
    value = None if name is None else line.record.get(name)
    if is_empty(value) and chat.answer is not None:
        name, value = f"{question_name}.content", chat.answer
    if name is None:
        if needs_reference:
            names = shortened(", ".join(list(line.record.fields)[:8]))
            message = f"no answer (fields: {names}); add 'answer'"
            refuse("missing_reference", message, REFERENCE.name)
        return Answer([]), None
    if is_empty(value):
        refuse("invalid_reference", "an empty answer; write one or remove the line", name, value)
    if line.record.fields.get("is_multiple_answer") is True and isinstance(value, list):
        value = ", ".join(map(str, value))  # OlympiadBench: all of them together are the answer
    if options is not None and verifier in (None, CHOICE):
        return _letter(value, options, name), name
    return read_answer(value, name, has_verifier=verifier is not None), name


def _letter(value: Any, options: Options, name: str) -> Answer:
    """Return the letter of the right option, which may stand at the end of a solution."""
    try:
        return Answer([letter_of(value, options, name)])
    except LineRefusedError:
        if not isinstance(value, str):
            raise
        answer = read_answer(value, name, has_verifier=True)
        if not answer.is_extracted:
            raise
        return Answer([letter_of(answer.texts[0], options, name)], is_extracted=True)


def _verifier(
    name: Any, answer: Answer, details: dict[str, Any], verifiers: Collection[str]
) -> str:
    if name is None and answer.is_object:
        name = JSON_VERIFIER
    elif name is None:
        has_choice = bool(answer.texts or details.get("options"))
        name = choose_verifier(answer.texts, details) if has_choice else DEFAULT_VERIFIER
    if not isinstance(name, str) or name not in verifiers:
        message = f"no such verifier; installed are {', '.join(sorted(verifiers))}"
        refuse("unknown_verifier", message, "verifier", name)
    return name


# Other fields ------------------------------------------------------------------------------------


def _details(line: Line, options: Options | None) -> dict[str, Any]:
    """Return the metadata, the line's id and all fields that have no meaning here."""
    metadata = line.value(METADATA) or {}
    if not isinstance(metadata, dict):
        refuse("invalid_metadata", "metadata is an object; write one", "metadata", metadata)
    line_id = line.value(ID)
    unknown = line.record.rest(line.names)
    line.notes += [Note("unknown_field", "kept under metadata", shortened(n)) for n in unknown]
    named = {"id": str(line_id)} if line_id is not None else {}
    return unknown | metadata | named | ({"options": options.texts} if options else {})


def _template_arguments(value: Any) -> dict[str, Any]:
    """Return the arguments of the chat template, small enough to go into each request."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse_arguments("the arguments are an object; write one", value)
    if len(value) > MAX_TEMPLATE_ARGUMENTS:
        _refuse_arguments(f"{len(value)} arguments; give at most {MAX_TEMPLATE_ARGUMENTS}", value)
    for name, argument in value.items():
        if name in RENDERER_ARGUMENTS:
            _refuse_arguments(f"{name!r} is no argument of a template; remove it", value)
        if isinstance(argument, dict | list):
            message = f"{shortened(name)!r} is text, a number, true, false or null; write one"
            _refuse_arguments(message, argument)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_TEMPLATE_BYTES:
        _refuse_arguments("longer than 4 KiB in all; shorten it", value)
    return value


def _refuse_arguments(message: str, value: Any) -> NoReturn:
    refuse("invalid_chat_template_kwargs", message, "chat_template_kwargs", value)
