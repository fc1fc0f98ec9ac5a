"""Read the messages of a question: a text, or a chat in the form of OpenAI or of ShareGPT."""

from dataclasses import dataclass
from typing import Any

from tempo_storage.labeled.fields import Entry
from tempo_storage.labeled.refusal import Note, refuse

MAX_MESSAGES = 32
MAX_TEXT_CHARACTERS = 32_768

ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    "developer": "system",
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"},
}
TEXT_PARTS = ("text", "input_text", "output_text")
# `weight` says whether fine-tuning learns from an assistant's message; here nothing does.
IGNORED_KEYS = ("weight",)
DEVELOPER = Note("developer_role", "the developer's message becomes the system message")
ASSISTANT = Note("assistant_answer", "the assistant's last message is no part of the question")


@dataclass(frozen=True, slots=True)
class Chat:
    """The messages of a question, and the assistant's answer that followed them, if any."""

    messages: list[dict[str, str]]
    answer: str | None
    notes: tuple[Note, ...] = ()


def read_chat(value: Any, name: str) -> Chat:
    """Return the chat in the field `name`; raise LineRefusedError for one that cannot be asked."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        message = f"give a text, or a list of 1 to {MAX_MESSAGES} messages"
        refuse("invalid_messages", message, name, value)
    messages = _with_one_system_message([_message(item, name) for item in value], name)
    answer = None
    notes: list[Note] = []
    if any(isinstance(item, dict) and item.get("role") == "developer" for item in value):
        notes.append(DEVELOPER)
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        answer = messages.pop()["content"]
        notes.append(ASSISTANT)
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        message = "the last message must be the user's, and not empty; add the question"
        refuse("invalid_messages", message, name, value)
    refuse_long(messages, name)
    return Chat(messages, answer, tuple(notes))


def refuse_long(messages: list[dict[str, str]], name: str) -> None:
    """Refuse messages that have more than 32,768 characters in all."""
    if (characters := sum(len(message["content"]) for message in messages)) > MAX_TEXT_CHARACTERS:
        message = f"{characters:,} characters in all; give at most {MAX_TEXT_CHARACTERS:,}"
        refuse("invalid_messages", message, name, messages[-1]["content"])


def system_message(entry: Entry, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the message of a line's system prompt; [] for an empty text."""
    value = entry.value
    problem = ""
    if not isinstance(value, str):
        problem = "a system message is text; write one text"
    elif len(value) > MAX_TEXT_CHARACTERS:
        problem = f"{len(value):,} characters; give at most {MAX_TEXT_CHARACTERS:,}"
    elif value.strip() and any(message["role"] == "system" for message in messages):
        problem = "the messages have a system message already; remove one of the two"
    if problem:
        refuse("invalid_system", problem, entry.name, value)
    return [{"role": "system", "content": value}] if value.strip() else []


def _message(item: Any, name: str) -> dict[str, str]:
    if not isinstance(item, dict):
        refuse("invalid_messages", "a message has a role and a content; write both", name, item)
    item = {key: value for key, value in item.items() if value is not None}
    if "from" in item and "role" not in item:  # ShareGPT
        item = {"role": item.pop("from"), "content": item.pop("value", None), **item}
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        message = "a role is system, developer, user or assistant; tools cannot be called"
        refuse("invalid_messages", message, f"{name}.role", role)
    for key in sorted(item.keys() - {"role", "content", *IGNORED_KEYS}):
        message = "a message has a role and a content only; remove the field"
        refuse("invalid_messages", message, f"{name}.{key}", item[key])
    return {"role": ROLES[role], "content": _content(item.get("content"), name)}


def _content(value: Any, name: str) -> str:
    """Return the text of a message; the parts of a list are joined by line ends, as vLLM does."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        refuse("invalid_messages", "a content is text; write it", f"{name}.content", value)
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in TEXT_PARTS or not isinstance(text, str):
            message = "a part of a content is text; a question with pictures or files is no text"
            refuse("invalid_messages", f"{message}, remove the line", f"{name}.content", part)
        texts.append(text)
    return "\n".join(texts)


def _with_one_system_message(messages: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    """Return the messages with those of system and developer at the start joined into one."""
    start = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if any(message["role"] == "system" for message in messages[start:]):
        message = "a system message stands at the start; move it there"
        refuse("invalid_messages", message, f"{name}.role", "system")
    if start < 2:
        return messages
    text = "\n\n".join(message["content"] for message in messages[:start])
    return [{"role": "system", "content": text}, *messages[start:]]
