"""Read one row of a labeled file: question, accepted answers, verifier."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from tempo_storage.labeled import fields
from tempo_storage.labeled.answer import EMPTY, Answer, read_answer
from tempo_storage.labeled.chat import Chat, read_chat, refuse_long, system_message
from tempo_storage.labeled.choice_of_verifier import choose_verifier
from tempo_storage.labeled.fields import Entry, Field, Record
from tempo_storage.labeled.options import (
    MAX_OPTIONS,
    Options,
    append_options,
    is_index,
    letter_of,
    read_options,
)
from tempo_storage.labeled.refusal import LineRefusedError, Note, refuse, shortened
from tempo_storage.question_hash import content_hash, loose_hash

MAX_SHOWN_FIELDS = 8
MAX_PLAIN_CHARACTERS = 200  # a longer text of an unknown field may be a passage
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
    reference_name: str = fields.REFERENCE.name
    """The field that has the reference, by the name that the file uses."""


class Line:
    """One row while it is read: its record, the names of the fields that are used, and notes."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.names: set[str] = set()
        self.notes: list[Note] = []

    def find(self, field: Field) -> Entry | None:
        """Return a field that is not used yet, and note an alias."""
        entry = self.record.find(field)
        if entry is None or entry.name in self.names:
            return None
        self.names.add(entry.name)
        if entry.alias not in (field.name, *fields.USUAL_NAMES):
            self.note("alias", f"{entry.name!r} is read as {field.name!r}", entry.name)
        return entry

    def value(self, field: Field) -> Any:
        """Return the value of a field; None if the line lacks it."""
        entry = self.find(field)
        return None if entry is None else entry.value

    def note(self, code: str, message: str, name: str) -> None:
        """Remark on a field of the line."""
        self.notes.append(Note(code, message, name))

    @property
    def shown_names(self) -> str:
        """The names of the line's first fields, for messages."""
        return shortened(", ".join([*self.record.fields][:MAX_SHOWN_FIELDS]) or "none")


def read_record(
    record: dict[str, Any],
    number: int,
    *,
    verifiers: Collection[str],
    needs_reference: bool = True,
) -> tuple[Example, list[Note]]:
    """Return the example of a row and the notes on it; raise LineRefusedError.

    `number` is the row's line in the file. `verifiers` are the names of the installed ones. Without
    `needs_reference` the row may have a question and no answer.
    """
    line = Line(_record(record))
    _refuse_unusable(line.record.fields)
    question, chat = _question(line)
    named_verifier = line.value(fields.VERIFIER)
    options = read_options(line.record)
    has_verifier = named_verifier is not None
    entry = _answer_entry(line, question, chat, options, has_verifier=has_verifier)
    if entry is None and needs_reference:
        message = f"no answer (fields: {line.shown_names}); add 'answer'"
        refuse("missing_reference", message, fields.REFERENCE.name)
    answer = Answer([])
    if entry is not None and options is not None and named_verifier in (None, CHOICE):
        answer = _letter(entry, options)
    elif entry is not None:
        answer = read_answer(entry, has_verifier=has_verifier)
    messages = _messages(line, question, chat, options)
    arguments = _template_arguments(line.value(fields.TEMPLATE))
    details = _details(line, options)
    example = Example(
        line=number,
        messages=messages,
        reference=answer.texts,
        verifier=_verifier(named_verifier, answer, details, verifiers),
        details=details,
        content_hash=content_hash(messages),
        loose_hash=loose_hash(messages),
        chat_template_kwargs=arguments,
        reference_name=shortened(fields.REFERENCE.name if entry is None else entry.name),
    )
    if entry is not None and answer.is_extracted:
        line.note("worked_solution", "the reference is its final answer", entry.name)
    return example, line.notes


def _record(row: dict[str, Any]) -> Record:
    """Return the fields of a row; those of an inner row if it has the question."""
    record = Record(row)
    inner = [row[name] for name in fields.WRAPPERS if isinstance(row.get(name), dict)]
    has_question = record.find(fields.QUESTION) is not None
    return record if has_question or not inner else Record(inner[0])


def _refuse_unusable(record: dict[str, Any]) -> None:
    for name, value in record.items():
        problem = "the question needs tools, which cannot be called" if name in fields.TOOLS else ""
        if fields.is_unusable(name):
            problem = "a picture, sound or film belongs to the question, which must be text"
        if problem and not fields.is_empty(value):
            refuse("unusable_field", f"{problem}; remove the line", name, value)


# Question ----------------------------------------------------------------------------------------


def _question(line: Line) -> tuple[Entry, Chat]:
    """Return the field that has the question, and its messages."""
    entry = line.find(fields.QUESTION)
    if entry is None:
        for name, value in line.record.fields.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                message = "no question, but a list of objects; write that list alone as an array"
                refuse("missing_messages", message, name)
        message = f"no question (fields: {line.shown_names}); add 'question'"
        refuse("missing_messages", message, fields.QUESTION.name)
    chat = read_chat(entry.value, entry.name)
    line.notes += chat.notes
    return entry, chat


def _messages(
    line: Line, question: Entry, chat: Chat, options: Options | None
) -> list[dict[str, str]]:
    """Return the messages with context, options and system prompt."""
    *earlier, last = chat.messages
    text = last["content"]
    if isinstance(question.value, str):
        text = _with_context(line, text)
    if options is not None:
        text = append_options(text, options)
        line.names.update(options.names)
        line.note("options", "the options are part of the question", options.names[0])
    messages = [*earlier, {"role": "user", "content": text}]
    refuse_long(messages, question.name)
    system = line.find(fields.SYSTEM)
    return messages if system is None else [*system_message(system, messages), *messages]


def _with_context(line: Line, question: str) -> str:
    entry = line.find(fields.CONTEXT)
    if entry is None:
        return question
    parts = entry.value if isinstance(entry.value, list) else [entry.value]
    if not all(isinstance(part, str) for part in parts):
        message = "a context is a text or a list of texts; write it as one"
        refuse("invalid_context", message, entry.name, entry.value)
    context = "\n\n".join(part.strip() for part in parts if part.strip())
    is_whole_row = entry.alias == "text" and question in context  # Alpaca's `text` has the answer
    if not context or context in question or is_whole_row:
        return question
    if entry.alias == "input":  # Alpaca: the instruction first, then its input
        line.note("context", "the input stands after the question", entry.name)
        return f"{question}\n\n{context}"
    line.note("context", "the context stands before the question", entry.name)
    return f"{context}\n\n{question}"


# Answer ------------------------------------------------------------------------------------------


def _reference_field(record: Record, options: Options | None) -> Field:
    """Return the aliases of the answer: those of options left out, numbers of options last."""
    indices = [entry.alias for entry in record.find_all(fields.INDICES) if is_index(entry)]
    last = [] if options else indices
    entries = record.find_all(fields.REFERENCE.aliases)
    others = {entry.alias for entry in entries if options and entry.name in options.names}
    first = [alias for alias in fields.REFERENCE.aliases if alias not in {*last, *others}]
    return replace(fields.REFERENCE, aliases=(*first, *last))


def _answer_entry(
    line: Line, question: Entry, chat: Chat, options: Options | None, *, has_verifier: bool
) -> Entry | None:
    """Return the field that has the answer, which may be the end of the chat; None for none."""
    entry = line.find(_reference_field(line.record, options))
    is_number = entry is not None and options is None and not has_verifier and is_index(entry)
    if chat.answer is not None and (entry is None or entry.is_empty or is_number):
        entry = Entry(f"{question.name}.content", question.alias, chat.answer)
    elif entry is not None and is_number and float(entry.value) < MAX_OPTIONS:
        message = "a number of an option, but no options; add 'options', or name a verifier"
        refuse("missing_options", message, entry.name, entry.value)
    if entry is None:
        return None
    if entry.is_empty:
        refuse("invalid_reference", EMPTY, entry.name, entry.value)
    if line.record.fields.get("is_multiple_answer") is True and isinstance(entry.value, list):
        # OlympiadBench: all of them together are the answer.
        entry = replace(entry, value=", ".join(map(str, entry.value)))
    return entry


def _letter(entry: Entry, options: Options) -> Answer:
    """Return the letter of the right option, which may stand at the end of a solution."""
    try:
        return Answer([letter_of(entry, options)])
    except LineRefusedError:
        if not isinstance(entry.value, str):
            raise
        answer = read_answer(entry, has_verifier=True)
        if not answer.is_extracted:
            raise
        final = replace(entry, value=answer.texts[0])
        return Answer([letter_of(final, options)], is_extracted=True)


def _verifier(
    name: Any, answer: Answer, details: dict[str, Any], verifiers: Collection[str]
) -> str:
    if name is None and answer.is_object:
        name = JSON_VERIFIER
    elif name is None:
        has_choice = bool(answer.texts or details.get("options"))
        name = choose_verifier(answer.texts, details) if has_choice else DEFAULT_VERIFIER
    # A verifier may have a part of its name after a colon, as in `reasoning_gym:chain_sum`.
    if not isinstance(name, str) or name.partition(":")[0] not in verifiers:
        message = f"no such verifier; installed are {', '.join(sorted(verifiers))}"
        refuse("unknown_verifier", message, "verifier", name)
    return name


# Other fields ------------------------------------------------------------------------------------


def _details(line: Line, options: Options | None) -> dict[str, Any]:
    """Return the metadata, the line's id and all fields that have no meaning here."""
    metadata = line.value(fields.METADATA) or {}
    if isinstance(metadata, str) and metadata.lstrip().startswith("{"):  # SimpleQA: Python's form
        metadata = {fields.METADATA.name: metadata}
    if not isinstance(metadata, dict):
        refuse("invalid_metadata", "metadata is an object; write one", "metadata", metadata)
    line_id = line.value(fields.ID)
    unknown = line.record.rest(line.names)
    for name in unknown:
        is_long = isinstance(unknown[name], str) and len(unknown[name]) > MAX_PLAIN_CHARACTERS
        hint = "; if the question needs this text, name it 'context'" if is_long else ""
        message = f"{shortened(name)!r} is kept under metadata{hint}"
        line.note("unknown_field", message, shortened(name))
    named = {"id": str(line_id)} if line_id is not None else {}
    return unknown | metadata | named | ({"options": options.texts} if options else {})


def _template_arguments(value: Any) -> dict[str, Any]:
    """Return the arguments of the chat template, small enough to go into each request."""
    problem = ""
    if value is None:
        return {}
    if not isinstance(value, dict):
        problem = "the arguments are an object; write one"
    elif len(value) > MAX_TEMPLATE_ARGUMENTS:
        problem = f"{len(value)} arguments; give at most {MAX_TEMPLATE_ARGUMENTS}"
    elif reserved := RENDERER_ARGUMENTS & value.keys():
        problem = f"{min(reserved)!r} is no argument of a template; remove it"
    elif any(isinstance(argument, dict | list) for argument in value.values()):
        problem = "an argument is text, a number, true, false or null; write one"
    elif len(json.dumps(value, ensure_ascii=False).encode()) > MAX_TEMPLATE_BYTES:
        problem = "longer than 4 KiB in all; shorten it"
    if problem:
        refuse("invalid_chat_template_kwargs", problem, fields.TEMPLATE.name, value)
    return dict(value)
