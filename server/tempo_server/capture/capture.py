"""Write the question of an accepted request to the spool; never delay or fail the request.

Capture keeps a question only if it is all text and a user speaks last. It does not keep the answer.
It never logs a question's text.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from tempo_server.capture import opt_out
from tempo_server.capture.question import CapturedQuestion
from tempo_server.capture.redaction import Redactor, redact
from tempo_server.capture.spool import Spool
from tempo_server.settings import ServerSettings
from tempo_storage.question_hash import content_hash, loose_hash

logger = logging.getLogger("vllm.tempo.capture")

ReadQuestion = Callable[[Any], CapturedQuestion | None]


@dataclass(frozen=True, slots=True)
class Capture:
    """Decides what to keep of a request, and writes it to the spool."""

    settings: ServerSettings
    spool: Spool
    redactors: Sequence[Redactor] = ()

    async def is_opted_out(self, raw_request: Request) -> bool:
        """Tell, before vLLM answers, whether the question of a request must not be kept."""
        return await opt_out.is_opted_out(raw_request, self.settings.opt_out_key_ids)

    def keep(
        self,
        request: Any,
        read_question: ReadQuestion,
        *,
        headers: Mapping[str, str],
        is_opted_out: bool,
    ) -> None:
        """Keep the question of a request that vLLM has accepted; never raise."""
        counters = self.spool.counters
        if self.settings.capture == "off":
            return
        if is_opted_out:
            counters.opted_out += 1
            return
        try:
            question = read_question(request)
            if question is None or not self._fits(question):
                counters.skipped += 1
                return
            self.spool.append(self._record(self._redacted(question), headers))
        except Exception as error:  # no error of ours may reach the request
            counters.dropped += 1
            # Log only the error's class, because its text may quote the question.
            logger.warning("a question was dropped (%s)", type(error).__name__)

    def _fits(self, question: CapturedQuestion) -> bool:
        try:
            size = len(json.dumps(question.messages, ensure_ascii=False).encode())
        except UnicodeEncodeError:  # half a surrogate pair: no database takes it
            return False
        return size <= self.settings.max_question_bytes

    def _redacted(self, question: CapturedQuestion) -> CapturedQuestion:
        return replace(
            question,
            messages=redact(question.messages, self.redactors),
            template_arguments=redact(question.template_arguments, self.redactors),
        )

    def _record(self, question: CapturedQuestion, headers: Mapping[str, str]) -> dict[str, Any]:
        record = {
            "id": f"q_{uuid.uuid4().hex}",
            "messages": question.messages,
            "chat_template_kwargs": question.template_arguments,
            "tenant": _tenant_hash(headers),
            "captured_at": time.time(),
        }
        if self.settings.capture == "hash":
            hashes = {
                "content_hash": content_hash(question.messages),
                "loose_hash": loose_hash(question.messages),
            }
            return record | hashes | {"messages": [], "chat_template_kwargs": {}, "tenant": ""}
        return record | question.sampling


def _tenant_hash(headers: Mapping[str, str]) -> str:
    """Return the id of the user's key, from OpenAI's header or from Anthropic's; "" without one."""
    header = headers.get("authorization", "") or headers.get("x-api-key", "")
    return opt_out.key_id(header) if header else ""
