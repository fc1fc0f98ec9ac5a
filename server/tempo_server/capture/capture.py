"""Copy the question of an accepted request to the spool; never slow it down, never fail it.

Only text is kept, and only when a user speaks last; the answer is not. A question's text is
never logged.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from tempo_server.capture.question import Question
from tempo_server.capture.spool import Counters, Spool
from tempo_server.settings import ServerSettings
from tempo_storage.questions import content_hash

logger = logging.getLogger("vllm.tempo.capture")

Shape = Callable[[Any], Question | None]

OPT_OUT_HEADER = "x-tempo-opt-out"
NOT_STORED = ("false", "f", "0", "off", "no", "n")  # as pydantic reads a bool


async def opts_out(raw_request: Request) -> bool:
    """Tell whether a request says that it must not be kept, by header or by `store: false`.

    To be asked before vLLM answers. The parsed request does not tell: Anthropic's shape has no
    `store`, and vLLM itself sets that of a response to false. FastAPI has read the body and keeps
    it, so nothing is waited for and nothing is taken away.
    """
    if raw_request.headers.get(OPT_OUT_HEADER, "0") != "0":
        return True
    try:
        body = await raw_request.json()
    except ValueError:  # whatever vLLM made of it, we cannot tell
        return True
    return isinstance(body, dict) and str(body.get("store")).lower() in NOT_STORED


@dataclass(frozen=True, slots=True)
class Capture:
    """Decides what is kept of a request, and spools it."""

    settings: ServerSettings
    spool: Spool
    counters: Counters

    def keep(
        self,
        request: Any,
        shape: Shape,
        *,
        headers: Mapping[str, str],
        version: int,
        opted_out: bool,
    ) -> None:
        """Keep the question of a request that `tempo-v<version>` answers; never raise."""
        if self.settings.capture == "off":
            return
        if opted_out:
            self.counters.opted_out += 1
            return
        try:
            question = shape(request)
            if question is None or not self._fits(question):
                self.counters.skipped += 1
                return
            self.spool.append(self._record(question, headers, version))
        except Exception as error:  # whatever it is, the request must not feel it
            self.counters.dropped += 1
            # The class alone: an error's text may quote the question.
            logger.warning("a question was dropped (%s)", type(error).__name__)

    def _fits(self, question: Question) -> bool:
        try:
            size = len(json.dumps(question.messages, ensure_ascii=False).encode())
        except UnicodeEncodeError:  # a lone surrogate: no database takes it
            return False
        return size <= self.settings.max_question_bytes

    def _record(
        self, question: Question, headers: Mapping[str, str], version: int
    ) -> dict[str, Any]:
        record = {
            "id": f"q_{uuid.uuid4().hex}",
            "messages": question.messages,
            "chat_template_kwargs": question.template_arguments,
            "tenant": _tenant(headers),
            "adapter_version": version,
            "sampling": question.sampling,
            "captured_at": time.time(),
        }
        if self.settings.capture == "hash":
            record |= {"messages": [], "content_hash": content_hash(question.messages)}
            record |= {"chat_template_kwargs": {}, "sampling": {}, "tenant": ""}
        return record


def _tenant(headers: Mapping[str, str]) -> str:
    """Return a hash of the key that a user sent, in OpenAI's header or in Anthropic's."""
    key = headers.get("authorization", "") or headers.get("x-api-key", "")
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""
