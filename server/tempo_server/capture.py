"""Copy the question of an accepted request to the spool; never slow it down, never fail it.

Only text is kept, and only when a user speaks last; the answer is not. A question's text is
never logged.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from tempo_server.settings import ServerSettings
from tempo_server.spool import Counters, Spool
from tempo_storage.questions import content_hash

logger = logging.getLogger("vllm.tempo.capture")

OPT_OUT_HEADER = "x-tempo-opt-out"
ROLES = ("system", "developer", "user", "assistant")
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "n", "seed")
# What renders into the prompt beside the messages: the trainer could not ask the same question.
BESIDE_MESSAGES = ("tools", "documents", "chat_template")


class Capture:
    """Decides what is kept of a chat request, and spools it."""

    def __init__(self, settings: ServerSettings, spool: Spool, counters: Counters) -> None:
        self._settings = settings
        self._spool = spool
        self._counters = counters

    def chat(self, request: Any, headers: Mapping[str, str], *, version: int) -> None:
        """Keep the question of a chat request that `tempo-v<version>` answers; never raise."""
        try:
            if self._settings.capture == "off" or self._opted_out(request, headers):
                return
            messages = plain_messages(request, self._settings.max_question_bytes)
            if messages is None:
                self._counters.skipped += 1
                return
            self._spool.append(self._record(request, messages, headers, version))
        except Exception as error:  # whatever it is, the request must not feel it
            self._counters.dropped += 1
            # The class alone: an error's text may quote the question.
            logger.warning("a question was dropped (%s)", type(error).__name__)

    def _opted_out(self, request: Any, headers: Mapping[str, str]) -> bool:
        if headers.get(OPT_OUT_HEADER, "0") == "0" and getattr(request, "store", None) is not False:
            return False
        self._counters.opted_out += 1
        return True

    def _record(
        self, request: Any, messages: list[dict[str, str]], headers: Mapping[str, str], version: int
    ) -> dict[str, Any]:
        record = {
            "id": f"q_{uuid.uuid4().hex}",
            "messages": messages,
            "chat_template_kwargs": _template_arguments(request),
            "tenant": _tenant(headers.get("authorization", "")),
            "adapter_version": version,
            "sampling": _set_fields(request, SAMPLING),
            "captured_at": time.time(),
        }
        if self._settings.capture == "hash":
            record |= {"messages": [], "content_hash": content_hash(messages)}
            record |= {"chat_template_kwargs": {}, "sampling": {}, "tenant": ""}
        return record


def plain_messages(request: Any, limit_bytes: int) -> list[dict[str, str]] | None:
    """Return the messages as role and text; None when they are more than that, or too long."""
    if any(getattr(request, name, None) for name in BESIDE_MESSAGES):
        return None
    if getattr(request, "continue_final_message", False):
        return None
    messages = [_plain(message) for message in request.messages]
    plain = [message for message in messages if message is not None]
    if len(plain) < len(messages) or not plain or plain[-1]["role"] != "user":
        return None
    try:
        size = len(json.dumps(plain, ensure_ascii=False).encode())
    except UnicodeEncodeError:  # a lone surrogate: no database takes it
        return None
    return plain if size <= limit_bytes else None


def _plain(message: Any) -> dict[str, str] | None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return None
    if any(message.get(name) for name in ("tool_calls", "function_call", "audio")):
        return None
    text = _text(message.get("content"))
    return None if text is None else {"role": message["role"], "content": text}


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return None
    return "\n".join(part["text"] for part in content)  # as vLLM joins them


def _template_arguments(request: Any) -> dict[str, Any]:
    effort = getattr(request, "reasoning_effort", None)
    # What vLLM itself makes of the top-level field.
    implied = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
    return implied | (getattr(request, "chat_template_kwargs", None) or {})


def _set_fields(request: Any, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(request, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _tenant(authorization: str) -> str:
    return hashlib.sha256(authorization.encode()).hexdigest()[:16] if authorization else ""
