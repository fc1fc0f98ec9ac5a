"""Write the question of an accepted request to the spool; never delay or fail the request.

Capture keeps a question only if it is all text and a user speaks last. It does not keep the answer.
It never logs a question's text.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers

from tempo_server.capture import opt_out
from tempo_server.capture.question import CapturedQuestion
from tempo_server.capture.rate_limit import RateLimit
from tempo_server.capture.redaction import Redactor, redact
from tempo_server.capture.spool import Spool
from tempo_server.capture.tenants import ANONYMOUS, Tenants
from tempo_server.settings import ServerSettings
from tempo_storage.question_hash import content_hash, loose_hash

logger = logging.getLogger("vllm.tempo.capture")

ReadQuestion = Callable[[Any], CapturedQuestion | None]


@dataclass(frozen=True, slots=True)
class Capture:
    """Decides what to keep of a request, and writes it to the spool."""

    settings: ServerSettings
    spool: Spool
    tenants: Tenants = field(default_factory=Tenants)
    rate_limit: RateLimit = field(default_factory=lambda: RateLimit(0))
    redactors: Sequence[Redactor] = ()

    async def is_opted_out(self, raw_request: Request) -> bool:
        """Tell, before vLLM answers, whether a request or one of its keys is opted out."""
        return await opt_out.is_opted_out(raw_request, self.settings.opt_out_ids)

    def keep(
        self,
        request: Any,
        read_question: ReadQuestion,
        *,
        headers: Headers,
        is_opted_out: bool,
        peer: str = "",
    ) -> None:
        """Keep the question of a request that vLLM has accepted; never raise.

        `peer` is the address from which the request came.
        """
        counters = self.spool.counters
        if self.settings.capture == "off":
            return
        try:
            tenant = self.tenants.name(headers, peer)
            if is_opted_out or tenant in self.settings.opt_out_ids:
                counters.opted_out += 1
                return
            question = read_question(request)
            if question is None or not self._fits(question):
                counters.skipped += 1
                return
            if not self.rate_limit.takes(tenant):
                counters.over_limit += 1
                return
            self.spool.append(self._record(self._redacted(question), tenant))
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

    def _record(self, question: CapturedQuestion, tenant: str) -> dict[str, Any]:
        record = {
            "id": f"q_{uuid.uuid4().hex}",
            "messages": question.messages,
            "chat_template_kwargs": question.template_arguments,
            "tenant": tenant,
            "captured_at": time.time(),
        }
        if self.settings.capture == "hash":
            hashes = {
                "content_hash": content_hash(question.messages),
                "loose_hash": loose_hash(question.messages),
            }
            return (
                record | hashes | {"messages": [], "chat_template_kwargs": {}, "tenant": ANONYMOUS}
            )
        return record | question.sampling
