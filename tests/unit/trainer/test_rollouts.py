"""The sampler asks vLLM for token ids by version name, and waits out a restart."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tempo_trainer.rollouts import PRIORITY, Prompt, Sampler, SamplerOptions, SamplingError


@dataclass
class Question:
    content_hash: str
    messages: list[dict[str, str]]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


def sampler(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Sampler:
    made = SamplerOptions(base_url="http://vllm", tempo_key="tk_x", max_tokens=4, **options)
    return Sampler(made, transport=httpx.MockTransport(answer))


def completions(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    choices = [
        {
            "index": i * body["n"] + j,
            "token_ids": [*ids, j],
            "logprobs": {"token_logprobs": [-0.5] * (len(ids) + 1)},
            "text": f"{ids} {j}",
            "finish_reason": "stop",
        }
        for i, ids in enumerate(body["prompt"])
        for j in range(body["n"])
    ]
    return httpx.Response(200, json={"model": body["model"], "choices": choices[::-1]})


def test_responses_come_back_in_the_order_of_the_prompts() -> None:
    prompts = [Prompt(str(i), (i,)) for i in range(7)]
    groups = sampler(completions, prompts_per_request=3).sample(
        prompts, adapter="tempo-t1", n=2, seed=5
    )
    assert [[s.ids for s in group] for group in groups] == [[(i, 0), (i, 1)] for i in range(7)]


def test_a_request_pins_the_version_the_temperature_and_the_priority() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return completions(request)

    sampler(answer).sample([Prompt("a", (1, 2))], adapter="tempo-t9", n=2, seed=5)
    body = json.loads(seen[0].content)
    assert seen[0].headers["x-tempo-key"] == "tk_x"
    assert (body["model"], body["priority"], body["seed"]) == ("tempo-t9", PRIORITY, 5)
    assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 1.0, 0)
    assert body["return_token_ids"] is True


def test_another_version_s_answer_is_refused() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={**completions(request).json(), "model": "base"})

    with pytest.raises(SamplingError, match=r"asked tempo-t1 and base answered"):
        sampler(answer).sample([Prompt("a", (1,))], adapter="tempo-t1", n=1, seed=0)


def test_a_server_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempo_trainer.rollouts.RETRY_SECONDS", 0.01)
    failures = iter([httpx.ConnectError("refused"), httpx.ReadError("gone"), 503])

    def answer(request: httpx.Request) -> httpx.Response:
        match next(failures, None):
            case None:
                return completions(request)
            case int(status):
                return httpx.Response(status)
            case error:
                raise error

    assert sampler(answer).sample([Prompt("a", (1,))], adapter="tempo-v0", n=1, seed=0)


def test_a_server_that_stays_away_fails_the_job_with_its_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(SamplingError, match="no answer from http://vllm"):
        sampler(answer, patience_seconds=0.0).sample(
            [Prompt("a", (1,))], adapter="tempo-v0", n=1, seed=0
        )


def test_a_refusal_is_reported_in_vllm_s_words() -> None:
    with pytest.raises(SamplingError, match="400 to /v1/completions: too long"):
        sampler(lambda _: httpx.Response(400, text="too long")).sample(
            [Prompt("a", (1,))], adapter="tempo-v0", n=1, seed=0
        )


def test_each_content_is_tokenised_once_and_a_too_long_one_left_out() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        asked.append(text)
        return httpx.Response(200, json={"tokens": list(range(len(text))), "max_model_len": 10})

    made = sampler(answer)
    questions = [
        Question(text, [{"role": "user", "content": text}]) for text in ("abc", "far too long")
    ]
    for _ in range(2):
        assert made.prompts(questions) == [Prompt("abc", (0, 1, 2))]
    assert sorted(asked) == ["abc", "far too long"]
