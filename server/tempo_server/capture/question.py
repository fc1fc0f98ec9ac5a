"""Read the question of a request: messages that render to the same prompt as the request itself.

    /v1/chat/completions   its messages
    /v1/responses          `instructions` as the system message, then `input`
    /v1/messages           `system` as the system message, then its messages
    /v1/completions        no question: the trainer renders questions through the chat template, so
                           it would train on another prompt than the raw one

A reader returns None for a request that it cannot read as such messages; the plugin counts it as
skipped. These are requests with more than text (tools, images, reasoning in the history), with
fields that change how the messages render, with a history that only vLLM knows
(`previous_response_id`), or with a last message that is blank or not a user's. A request that
forces the form of its answer (`response_format`, `structured_outputs`) is skipped, too: the prompt
does not say the form, so other answers to the same prompt would be compared with another task. So
is one whose `chat_template_kwargs` are larger than 4 KiB or nested more than eight levels deep.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tempo_storage.decoding import sampling_arguments
from tempo_storage.labeled.line import RENDERER_ARGUMENTS
from tempo_storage.question_hash import text_of

Message = dict[str, Any]  # its content is a text, or a list of text parts

ROLES = ("system", "developer", "user", "assistant")
TEXT_PARTS = ("text", "input_text", "output_text")
ITEM_FIELDS = ("type", "id", "status")  # of an item of /v1/responses; no template gets them
# Fields that add to the prompt beside the messages, or change how the messages render.
OTHER_CHAT_PROMPT = (
    *("tools", "documents", "chat_template", "continue_final_message"),
    *("add_special_tokens", "truncate_prompt_tokens", "kv_transfer_params"),
)
OTHER_RESPONSES_PROMPT = (
    *("tools", "previous_response_id", "previous_input_messages", "prompt", "kv_transfer_params"),
)
# vLLM ignores those of its older releases, but they say what the user expects.
STRUCTURED = (
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
# Start of a text block that Claude Code adds; vLLM removes it from the prompt.
ATTRIBUTION = "x-anthropic-billing-header"


MAX_ARGUMENT_BYTES = 4096
MAX_ARGUMENT_DEPTH = 8
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CapturedQuestion:
    """A question, and the arguments with which it was rendered and sampled.

    `sampling` has the request's temperature, top_p, top_k and max_tokens; None for one that it does
    not set.
    """

    messages: list[Message]
    template_arguments: dict[str, Any]
    sampling: dict[str, float | int | None]


def from_chat(request: Any) -> CapturedQuestion | None:
    """Return the question of a chat completion."""
    if any(getattr(request, name, None) for name in OTHER_CHAT_PROMPT):
        return None
    if not getattr(request, "add_generation_prompt", True):
        return None
    effort = getattr(request, "reasoning_effort", None)
    return _question(request, map(_text_message, request.messages), effort)


def from_completion(request: Any) -> None:
    """Return None: a raw prompt is not captured."""


def from_response(request: Any) -> CapturedQuestion | None:
    """Return the question of a request to /v1/responses."""
    if any(getattr(request, name, None) for name in OTHER_RESPONSES_PROMPT):
        return None
    items = request.input
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    effort = request.reasoning.effort if request.reasoning else None
    return _question(request, map(_response_item, items), effort, system=request.instructions)


def from_anthropic(request: Any) -> CapturedQuestion | None:
    """Return the question of a request in Anthropic's form."""
    # We cannot know which effort vLLM chooses to turn thinking off, because it depends on the
    # model.
    if request.tools or (request.thinking and request.thinking.type == "disabled"):
        return None
    if any(message.role == "system" for message in request.messages):
        return None  # its place in the prompt depends on the template
    effort = request.output_config.effort if request.output_config else None
    system = _system_text(request.system)
    return _question(request, map(_anthropic_message, request.messages), effort, system=system)


def _question(
    request: Any,
    messages: Iterable[Message | None],
    effort: str | None,
    *,
    system: str | None = None,
) -> CapturedQuestion | None:
    """Return a question of these messages.

    Return None if one of them is None, if no user speaks last or says nothing, and for a request
    that forces the form of its answer.
    """
    first = [{"role": "system", "content": system}] if system else []
    every = [*first, *messages]
    read = [message for message in every if message is not None]
    if len(read) < len(every) or not read or read[-1]["role"] != "user":
        return None
    if not text_of(read[-1]["content"]).strip() or _is_structured(request):
        return None
    fields = vars(request)  # reading a deprecated field as an attribute warns each time
    arguments = fields.get("chat_template_kwargs") or {}
    if not RENDERER_ARGUMENTS.isdisjoint(arguments) or not _is_plain(arguments):
        return None
    if effort:  # vLLM itself derives these two; the user's own enable_thinking wins
        arguments = {"enable_thinking": effort != "none"} | arguments | {"reasoning_effort": effort}
    return CapturedQuestion(
        messages=read,
        template_arguments=arguments,
        sampling=sampling_arguments(fields),
    )


def _is_plain(arguments: Any) -> bool:
    """Tell whether arguments of the template are small JSON, which every database takes."""
    if not _is_shallow(arguments, MAX_ARGUMENT_DEPTH):
        return False
    try:
        return len(json.dumps(arguments, allow_nan=False).encode()) <= MAX_ARGUMENT_BYTES
    except (TypeError, ValueError):  # not a number, or half a surrogate pair
        return False


def _is_shallow(value: Any, depth: int) -> bool:
    """Tell whether a value holds JSON scalars at most `depth` levels below it."""
    if isinstance(value, str):
        return "\0" not in value and not SURROGATE.search(value)
    if value is None or isinstance(value, bool | int | float):
        return True
    if depth == 0 or not isinstance(value, dict | list):
        return False
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return all(_is_shallow(one, depth - 1) for one in inner)


def _is_structured(request: Any) -> bool:
    """Tell whether the request forces the form of its answer: JSON, a pattern, a choice."""
    if any(getattr(request, name, None) for name in STRUCTURED):
        return True
    holders = (("response_format", ""), ("text", "format"), ("output_config", "format"))
    for name, part in holders:
        form = getattr(request, name, None)
        form = getattr(form, part, None) if part else form
        if form is not None and getattr(form, "type", "text") != "text":
            return True
    return False


def _text_message(message: Any) -> Message | None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return None
    if any(value for name, value in message.items() if name not in ("role", "content")):
        return None  # a template may render any of them: name, tool_calls, reasoning
    content = _content(message.get("content"))
    return None if content is None else {"role": message["role"], "content": content}


def _response_item(item: Any) -> Message | None:
    fields = item if isinstance(item, dict) else item.model_dump()
    if fields.get("status") in ("in_progress", "incomplete"):
        return None  # vLLM would continue it instead of answering
    content = fields.get("content")
    if fields.get("role") == "assistant" and isinstance(content, list) and len(content) > 1:
        return None  # vLLM renders only the first of its parts
    return _text_message({k: v for k, v in fields.items() if k not in ITEM_FIELDS})


def _anthropic_message(message: Any) -> Message | None:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    if not all(block.type == "text" and block.text for block in message.content):
        return None
    content = _content([{"type": "text", "text": block.text} for block in message.content])
    return None if content is None else {"role": message.role, "content": content}


def _system_text(system: Any) -> str | None:
    if system is None or isinstance(system, str):
        return system
    texts = [block.text for block in system if block.type == "text" and block.text]
    return "".join(text for text in texts if not text.startswith(ATTRIBUTION))


def _content(content: Any) -> str | list[dict[str, str]] | None:
    """Return a message's content; None if it is empty or a part of it is not text.

    Several parts stay apart: some chat templates get the list and join the parts by rules of their
    own, and for the others vLLM joins them by line ends. /tokenize does the same.
    """
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else []
    if not all(isinstance(part, dict) and part.get("type") in TEXT_PARTS for part in parts):
        return None
    texts = [{"type": "text", "text": part["text"]} for part in parts]
    if len(texts) == 1:
        return str(texts[0]["text"])
    return texts or None
