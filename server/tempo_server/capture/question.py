"""What each route asks, as messages that render to the very prompt that the user's request had.

    /v1/chat/completions   its messages
    /v1/responses          `instructions` as the system message, then `input`
    /v1/messages           `system` as the system message, then its messages
    /v1/completions        nothing: a raw prompt is no chat message, and the trainer, which renders
                           questions through the chat template, would train on another prompt

The rest is None too and is counted as skipped: more than text (tools, images, reasoning in the
history), what renders beside the messages, what vLLM alone remembers (`previous_response_id`), and
whatever is not asked by a user who speaks last.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]

ROLES = ("system", "developer", "user", "assistant")
TEXT_PARTS = ("text", "input_text", "output_text")
MORE_THAN_TEXT = ("tool_calls", "function_call", "audio", "reasoning", "reasoning_content")
SAMPLING = (
    *("temperature", "top_p", "top_k", "n", "seed"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens"),
)
# What renders into the prompt beside the messages, or changes how they do.
BESIDE_CHAT = (
    *("tools", "documents", "chat_template", "continue_final_message"),
    *("add_special_tokens", "truncate_prompt_tokens"),
)
BESIDE_RESPONSES = ("tools", "previous_response_id", "previous_input_messages", "prompt")
# Claude Code's hash of the request, which vLLM takes out of the prompt.
ATTRIBUTION = "x-anthropic-billing-header"


@dataclass(frozen=True, slots=True)
class Question:
    """What asking the same again needs."""

    messages: list[Message]
    template_arguments: dict[str, Any]
    sampling: dict[str, Any]


def chat(request: Any) -> Question | None:
    """Return the question of a chat completion."""
    beside = any(getattr(request, name, None) for name in BESIDE_CHAT)
    if beside or not getattr(request, "add_generation_prompt", True):
        return None
    effort = getattr(request, "reasoning_effort", None)
    return _question(request, map(_plain, request.messages), effort)


def completions(request: Any) -> None:
    """Return None: a raw prompt is not captured."""


def responses(request: Any) -> Question | None:
    """Return the question of a response."""
    if any(getattr(request, name, None) for name in BESIDE_RESPONSES):
        return None
    given = request.input
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    effort = request.reasoning.effort if request.reasoning else None
    return _question(request, map(_response_item, items), effort, system=request.instructions)


def messages(request: Any) -> Question | None:
    """Return the question of a request in Anthropic's shape."""
    # What effort turns thinking off depends on the model, and vLLM finds it by trying.
    if request.tools or (request.thinking and request.thinking.type == "disabled"):
        return None
    if any(message.role == "system" for message in request.messages):
        return None  # where it renders depends on the template
    effort = request.output_config.effort if request.output_config else None
    system = _system_text(request.system)
    return _question(request, map(_anthropic, request.messages), effort, system=system)


def _question(
    request: Any, found: Iterable[Message | None], effort: str | None, *, system: str | None = None
) -> Question | None:
    leading = [{"role": "system", "content": system}] if system else []
    whole = [*leading, *found]
    plain = [message for message in whole if message is not None]
    if len(plain) < len(whole) or not plain or plain[-1]["role"] != "user":
        return None
    # What vLLM itself makes of the effort.
    implied = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
    given = vars(request)  # by attribute, a deprecated field warns each time
    return Question(
        messages=plain,
        template_arguments=implied | (given.get("chat_template_kwargs") or {}),
        sampling={name: given[name] for name in SAMPLING if given.get(name) is not None},
    )


def _plain(message: Any) -> Message | None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return None
    if any(message.get(name) for name in MORE_THAN_TEXT):
        return None
    text = _text(message.get("content"))
    return None if text is None else {"role": message["role"], "content": text}


def _response_item(item: Any) -> Message | None:
    fields = item if isinstance(item, dict) else item.model_dump()
    if fields.get("status") in ("in_progress", "incomplete"):
        return None  # vLLM would go on with it instead of answering
    content = fields.get("content")
    if fields.get("role") == "assistant" and isinstance(content, list) and len(content) > 1:
        return None  # of which vLLM renders the first part alone
    return _plain(fields)


def _anthropic(message: Any) -> Message | None:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    if not all(block.type == "text" and block.text for block in message.content):
        return None
    return {"role": message.role, "content": "\n".join(b.text for b in message.content)}


def _system_text(system: Any) -> str | None:
    if system is None or isinstance(system, str):
        return system
    texts = [block.text for block in system if block.type == "text" and block.text]
    return "".join(text for text in texts if not text.startswith(ATTRIBUTION))


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(part, dict) and part.get("type") in TEXT_PARTS for part in parts):
        return None
    return "\n".join(part["text"] for part in parts)  # as vLLM joins them
