"""Sample responses from the served policy over HTTP: token ids in, token ids and log-probs out.

The server renders and tokenises each question, and its token ids are used as they are: a second
renderer, or re-tokenised text, would train on something that nobody sampled.

Users come first. A rollout request is sent only while nothing queues in vLLM, whoever it is: when
`vllm:num_requests_waiting` is above 0 the engine is full, and one more rollout could only lengthen
what a user waits for. Rollouts that queue there themselves need no exception, since more of them
would wait as well. vLLM cannot pause what already runs; that much is bounded by
`requests_in_flight`, and what it has queued stands behind users by its priority.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from tempo_storage.errors import TempoError
from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger(__name__)
PRIORITY = 10  # behind users, who have 0
RETRY_SECONDS = 1.0
REQUEST_SECONDS = 600.0
CACHED_PROMPTS = 4096
QUEUE_SECONDS = 0.25  # how old a look at vLLM's queue may be
WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{.*\})? (\S+)$", re.MULTILINE)


class SamplingError(TempoError, RuntimeError):
    """vLLM refused a rollout or stayed away; the message has its words."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids."""

    question_id: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One response as vLLM sampled it; `logprobs` are of the sampled tokens, before temperature."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


class Rollouts(Protocol):
    """Where training's responses come from."""

    def sample(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, draw: int
    ) -> list[list[Sample]]:
        """Return `n` responses of `adapter` for each prompt, in order; `draw` names the draw."""
        ...


class Sampler:
    """Bounded requests at low priority, none while users queue; waits out a server's restart."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        key: str,
        should_stop: Callable[[], bool] = lambda: False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._should_stop = should_stop
        headers = {"X-Tempo-Key": key}
        if settings.vllm_api_key:
            headers["Authorization"] = f"Bearer {settings.vllm_api_key}"
        self._client = httpx.Client(
            base_url=settings.base_url,
            headers=headers,
            timeout=REQUEST_SECONDS,
            transport=transport,
        )
        self._threads = ThreadPoolExecutor(settings.requests_in_flight, "sampler")
        self._prompts: dict[str, Prompt | None] = {}
        self._lock = threading.Lock()
        self._seen_at = -QUEUE_SECONDS
        self._queued = False
        self._held_back = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def prompts(self, questions: Sequence[Any]) -> list[Prompt]:
        """Return the questions as the server tokenises them; each content is asked for once.

        A question is a row with `content_hash`, `messages` and `chat_template_kwargs`. One that
        leaves no room for a response of `max_response_tokens` is left out.
        """
        known = self._prompts
        if len(known) > CACHED_PROMPTS:
            known.clear()
        missing = {q.content_hash: q for q in questions if q.content_hash not in known}
        known.update(zip(missing, self._threads.map(self._tokenize, missing.values()), strict=True))
        return [prompt for q in questions if (prompt := known[q.content_hash]) is not None]

    def sample(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, draw: int = 0
    ) -> list[list[Sample]]:
        """Return `n` responses of `adapter` for each prompt, at temperature 1, in order.

        `draw` changes nothing here: it is for whom records what was drawn.
        """
        size = self._settings.prompts_per_request
        chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        answered = self._threads.map(lambda chunk: self._complete(chunk, adapter, n), chunks)
        return [group for groups in answered for group in groups]

    def take_held_back(self) -> float:
        """Return the seconds, summed over requests, that users have cost since the last call."""
        with self._lock:
            seconds, self._held_back = self._held_back, 0.0
        return seconds

    def _tokenize(self, question: Any) -> Prompt | None:
        body = {
            "messages": question.messages,
            "add_generation_prompt": True,
            "chat_template_kwargs": getattr(question, "chat_template_kwargs", None) or None,
        }
        reply = self._post("/tokenize", body)
        ids, room = tuple(reply["tokens"]), reply["max_model_len"]
        longest = self._settings.max_response_tokens
        if longest >= room:
            raise SamplingError(
                f"responses of TEMPO_MAX_RESPONSE_TOKENS, {longest}, leave no question room in"
                f" vLLM's --max-model-len of {room}; lower the one or raise the other"
            )
        if len(ids) + longest > room:
            text = "rollouts: a question of %d tokens and a response of %d are more than %d tokens"
            logger.warning(text, len(ids), longest, room)
            return None
        return Prompt(question.content_hash, ids)

    def _complete(self, prompts: Sequence[Prompt], adapter: str, n: int) -> list[list[Sample]]:
        # No seed: vLLM gives the i-th response of a request seed + i, whatever its prompt, so that
        # the responses to different questions would be one draw; and it samples such rows one by
        # one, which users beside them would wait for.
        body = {
            "model": adapter,
            "prompt": [list(p.ids) for p in prompts],
            "n": n,
            "max_tokens": self._settings.max_response_tokens,
            "priority": PRIORITY,
            "logprobs": 0,
            "return_token_ids": True,
            # All set on purpose: what is left out comes from the model's generation_config.json.
            **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
            **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        }
        self._let_users_pass()
        reply = self._post("/v1/completions", body)
        choices = [_sample(c) for c in sorted(reply["choices"], key=lambda c: c["index"])]
        if reply["model"] != adapter and adapter != "tempo-v0":
            raise SamplingError(f"asked {adapter} and {reply['model']} answered; stop training")
        return [choices[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _let_users_pass(self) -> None:
        deadline = time.monotonic() + self._settings.patience_seconds
        while self._something_queues() and not self._should_stop():
            if time.monotonic() > deadline:
                logger.warning("rollouts: vLLM's queue is never empty; going on behind its users")
                return
            time.sleep(QUEUE_SECONDS)
            with self._lock:
                self._held_back += QUEUE_SECONDS

    def _something_queues(self) -> bool:
        with self._lock:  # one look serves all threads: reading the metrics costs the server time
            if time.monotonic() - self._seen_at >= QUEUE_SECONDS:
                self._queued = self._read_queue() > 0
                self._seen_at = time.monotonic()
            return self._queued

    def _read_queue(self) -> float:
        """Return how many requests queue; 0 where the server does not say."""
        try:
            text = self._client.get("/metrics", timeout=RETRY_SECONDS).text
        except httpx.ReadTimeout:
            return 1.0  # too busy to say so
        except httpx.TransportError:
            return 0.0  # the request itself waits for a server that is away
        return sum(float(value) for value in WAITING.findall(text))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._patiently(path, body)
        if response.status_code != 200:
            raise SamplingError(f"vLLM answered {response.status_code} to {path}: {response.text}")
        parsed: dict[str, Any] = response.json()
        return parsed

    def _patiently(self, path: str, body: dict[str, Any]) -> httpx.Response:
        deadline = time.monotonic() + self._settings.patience_seconds
        while True:
            try:
                response = self._client.post(path, json=body)
                if response.status_code not in (429, 502, 503, 504):
                    return response
                reason = f"status {response.status_code}"
            except httpx.TransportError as error:
                reason = repr(error)
            if time.monotonic() > deadline:
                raise SamplingError(
                    f"no answer from {self._settings.base_url} for "
                    f"{self._settings.patience_seconds:.0f} s ({reason}); is vLLM running"
                )
            time.sleep(RETRY_SECONDS)


def _sample(choice: dict[str, Any]) -> Sample:
    return Sample(
        ids=tuple(choice["token_ids"]),
        logprobs=tuple(choice["logprobs"]["token_logprobs"]),
        text=choice["text"],
        finish_reason=choice["finish_reason"] or "abort",
    )


def rollouts_of(
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Sample]],
    adapter: str,
    outcomes: Sequence[Sequence[float]] | None,
) -> list[Rollout]:
    """Return responses as rows, but not empty or aborted ones; without outcomes: unlabeled.

    Raises SamplingError, after which a job is tried again, where no response of any is left.
    """
    rows = [
        Rollout(
            question_id=prompt.question_id,
            prompt_ids=prompt.ids,
            response_ids=sample.ids,
            logprobs=sample.logprobs,
            group=index,
            adapter=adapter,
            finish_reason=sample.finish_reason,
            labeled=outcomes is not None,
            outcome=math.nan if outcomes is None else outcomes[index][member],
        )
        for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True))
        for member, sample in enumerate(group)
        if sample.ids and sample.finish_reason != "abort"
    ]
    if not rows and (count := sum(map(len, groups))):
        raise SamplingError(f"{adapter}: each of {count} responses was aborted or empty")
    return rows
