"""Sample responses from the served policy over HTTP: token ids in, token ids and log-probs out.

The server renders and tokenises each question, and its token ids are used as they are. A second
renderer, or text that is tokenised again, would train on something that nobody sampled.

Users come first. A rollout request is sent only while no request queues in vLLM, whoever sent it:
while `vllm:num_requests_waiting` is above 0 the engine is full, and one more rollout could only
lengthen a user's wait. Queued rollouts count too, because another rollout would only wait behind
them. vLLM cannot pause a running request. `requests_in_flight` bounds these, and a rollout that
queues in vLLM stands behind users by its priority.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from tempo_client._credentials import trusts_environment
from tempo_storage.adapters import BASE_NAME
from tempo_storage.decoding import PLAIN, Decoding
from tempo_storage.errors import TempoError
from tempo_trainer.worker_settings import WorkerSettings

logger = logging.getLogger("tempo.sampling")
PRIORITY = 10  # behind users, who have 0
RETRY_SECONDS = 1.0
REQUEST_SECONDS = 600.0
MAX_CACHED_PROMPTS = 4096
QUEUE_SECONDS = 0.25  # longest age of the last look at vLLM's queue
TOKENIZE = "/tokenize"
REFUSED_STATUSES = (400, 413, 422)
RETRIED_STATUSES = (429, 502, 503, 504)
WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{.*\})? (\S+)$", re.MULTILINE)


class SamplingError(TempoError, RuntimeError):
    """vLLM refused a rollout or did not answer; the message quotes it."""


class RefusedError(SamplingError):
    """vLLM refused this request; another one may pass."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids."""

    content_hash: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One response as vLLM sampled it; `logprobs` are of the sampled tokens, before temperature."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


class Sampler:
    """Sends a few requests at once, none while users queue, and waits while a server restarts."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        key: str,
        should_stop: Callable[[], bool] = lambda: False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.on_responses: Callable[[int, int], None] = lambda count, missing: None
        """Called with the number of new responses, and of those that `sample` still waits for."""
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
            trust_env=trusts_environment(settings.base_url, settings.trust_env),
        )
        self._threads = ThreadPoolExecutor(settings.requests_in_flight, "sampler")
        self._prompts: dict[str, tuple[int, ...] | None] = {}
        self._lock = threading.Lock()
        self._queue_read_at = -QUEUE_SECONDS
        self._queue_length = 0.0
        self._held_back = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def prompts(self, questions: Sequence[Any]) -> list[Prompt]:
        """Return the questions as the server tokenises them; it tokenises equal messages once.

        A question is a row with `content_hash`, `messages` and `chat_template_kwargs`. A question
        that leaves no room for a response of `max_response_tokens` is left out, and so is one that
        vLLM refuses.
        """
        if len(self._prompts) > MAX_CACHED_PROMPTS:
            self._prompts.clear()
        # Questions with one content hash may still render to different prompts: white space.
        bodies = [tokenize_body(question) for question in questions]
        missing = dict.fromkeys(body for body in bodies if body not in self._prompts)
        self._prompts.update(zip(missing, self._threads.map(self._tokenize, missing), strict=True))
        cached = [
            (q.content_hash, self._prompts[b]) for q, b in zip(questions, bodies, strict=True)
        ]
        return [Prompt(content_hash, ids) for content_hash, ids in cached if ids is not None]

    def sample(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, decoding: Decoding = PLAIN
    ) -> list[list[Sample]]:
        """Return `n` responses of `adapter` to each prompt, in order.

        Raises SamplingError if vLLM refuses, stays away for `patience_seconds`, or lets another
        version answer.
        """
        # A request holds as many responses as one for rollouts does, whatever n is.
        most = self._settings.prompts_per_request * self._settings.group_size
        size = max(1, most // n)
        chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        groups: list[list[Sample]] = [[] for _ in prompts]
        missing = n * len(prompts)
        for start in range(0, n, most):
            count = min(most, n - start)
            complete = partial(self._complete, adapter=adapter, n=count, decoding=decoding)
            replies = self._threads.map(complete, chunks)
            for group, more in zip(groups, (g for reply in replies for g in reply), strict=True):
                group += more
                missing -= len(more)
                self.on_responses(len(more), missing)
        return groups

    def take_held_back(self) -> float:
        """Return how long requests waited for users' requests since the last call, in seconds."""
        with self._lock:
            seconds = self._held_back
            self._held_back = 0.0
        return seconds

    def _tokenize(self, body: str) -> tuple[int, ...] | None:
        try:
            reply = self._post(TOKENIZE, json.loads(body))
        except RefusedError as error:
            logger.warning("a question is left out, because vLLM refuses it: %s", error)
            return None
        ids = tuple(reply["tokens"])
        room = reply["max_model_len"]
        longest = self._settings.max_response_tokens
        if longest >= room:
            raise SamplingError(
                f"responses of TEMPO_MAX_RESPONSE_TOKENS, {longest}, leave no question room in"
                f" vLLM's --max-model-len of {room}; lower the one or raise the other"
            )
        if len(ids) + longest > room:
            logger.warning(
                "a question of %d tokens is left out: with a response of %d it is longer"
                " than vLLM's --max-model-len of %d",
                *(len(ids), longest, room),
            )
            return None
        return ids

    def _complete(
        self, prompts: Sequence[Prompt], *, adapter: str, n: int, decoding: Decoding
    ) -> list[list[Sample]]:
        # No seed: vLLM gives the i-th response of a request seed + i, whatever its prompt, so that
        # the responses to different questions would be one draw. It also samples seeded rows one
        # by one, and users beside them would wait.
        limit = self._settings.max_response_tokens
        body = {
            "model": adapter,
            "prompt": [list(p.ids) for p in prompts],
            "n": n,
            "max_tokens": min(limit, decoding.max_tokens or limit),
            "priority": PRIORITY,
            "logprobs": 0,
            "return_token_ids": True,
            # All are set, because vLLM takes an absent one from generation_config.json.
            **{"temperature": decoding.temperature, "top_p": decoding.top_p},
            **{"top_k": decoding.top_k, "min_p": 0.0},
            **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        }
        self._wait_while_users_queue()
        reply = self._post("/v1/completions", body)
        samples = [_sample(c) for c in sorted(reply["choices"], key=lambda c: c["index"])]
        if reply["model"] != adapter and adapter != BASE_NAME:
            raise SamplingError(
                f"{reply['model']} answered a request for {adapter}; check that TEMPO_BASE_URL,"
                f" {self._settings.base_url}, is the server with the tempo plugin"
            )
        return [samples[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _wait_while_users_queue(self) -> None:
        deadline = time.monotonic() + self._settings.patience_seconds
        while self._recent_queue_length() > 0 and not self._should_stop():
            if time.monotonic() > deadline:
                logger.warning(
                    "requests queued in vLLM for %.0f s; rollouts go on behind its users",
                    self._settings.patience_seconds,
                )
                return
            time.sleep(QUEUE_SECONDS)
            with self._lock:
                self._held_back += QUEUE_SECONDS

    def _recent_queue_length(self) -> float:
        with self._lock:  # one look serves all threads: reading the metrics costs the server time
            if time.monotonic() - self._queue_read_at >= QUEUE_SECONDS:
                self._queue_length = self._read_queue_length()
                self._queue_read_at = time.monotonic()
            return self._queue_length

    def _read_queue_length(self) -> float:
        """Return how many requests queue; 0 if the server does not say."""
        try:
            text = self._client.get("/metrics", timeout=RETRY_SECONDS).text
        except httpx.ReadTimeout:
            return 1.0  # a server too busy to answer has a queue
        except httpx.TransportError:
            return 0.0  # the request itself waits for a server that is away
        return sum(float(value) for value in WAITING.findall(text))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the reply; wait for a server that is away or busy as long as patience lasts."""
        deadline = time.monotonic() + self._settings.patience_seconds
        while True:
            try:
                response = self._client.post(path, json=body)
                if response.status_code == 200:
                    return dict(response.json())
                reason = f"vLLM answered {response.status_code} to {path}"
                if path != TOKENIZE:  # that answer may quote the question, and this is logged
                    reason += f": {response.text}"
                if response.status_code in REFUSED_STATUSES:
                    raise RefusedError(reason)
                if response.status_code not in RETRIED_STATUSES:
                    raise SamplingError(reason)
            except httpx.TransportError as error:
                reason = repr(error)
            if time.monotonic() > deadline:
                raise SamplingError(
                    f"no answer from {self._settings.base_url} for "
                    f"{self._settings.patience_seconds:.0f} s ({reason}); is vLLM running"
                )
            time.sleep(RETRY_SECONDS)


def tokenize_body(question: Any) -> str:
    """Return the request by which vLLM tokenises a question, as JSON."""
    body = {
        "messages": question.messages,
        "add_generation_prompt": True,
        "chat_template_kwargs": getattr(question, "chat_template_kwargs", None) or None,
    }
    return json.dumps(body)


def _sample(choice: dict[str, Any]) -> Sample:
    return Sample(
        ids=tuple(choice["token_ids"]),
        logprobs=tuple(choice["logprobs"]["token_logprobs"]),
        text=choice["text"],
        finish_reason=choice["finish_reason"] or "abort",
    )
