"""The sampler asks vLLM for token ids by version name, behind users, and waits for a restart."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tempo_trainer.sampling.sampler import PRIORITY, Prompt, Sampler, SamplingError
from tempo_trainer.worker_settings import WorkerSettings


@dataclass
class Question:
    content_hash: str
    messages: list[dict[str, str]]
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


SETTINGS = WorkerSettings(base_url="http://vllm", max_response_tokens=4)


def sampler(
    answer: Callable[[httpx.Request], httpx.Response],
    should_stop: Callable[[], bool] = lambda: False,
    **changed: Any,
) -> Sampler:
    settings = SETTINGS.model_copy(update=changed)  # unchecked: a patience of no time at all
    transport = httpx.MockTransport(answer)
    return Sampler(settings, key="tk_x", should_stop=should_stop, transport=transport)


def completions(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/metrics":
        return metrics(0)
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


def metrics(waiting: int) -> httpx.Response:
    lines = (
        "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.",
        'vllm:num_requests_running{engine="0",model_name="tempo"} 64.0',
        f'vllm:num_requests_waiting{{engine="0",model_name="tempo"}} {waiting}.0',
        'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0',
    )
    return httpx.Response(200, text="\n".join(lines))


def test_responses_come_back_in_the_order_of_the_prompts() -> None:
    prompts = [Prompt(str(i), (i,)) for i in range(7)]
    groups = sampler(completions, prompts_per_request=3).sample(prompts, adapter="tempo-t1", n=2)
    assert [[s.ids for s in group] for group in groups] == [[(i, 0), (i, 1)] for i in range(7)]


def test_each_response_is_announced_with_the_number_of_those_that_are_missing() -> None:
    announced: list[tuple[int, int]] = []
    source = sampler(completions, prompts_per_request=2, group_size=2)
    source.on_responses = lambda count, missing: announced.append((count, missing))
    source.sample([Prompt(str(i), (i,)) for i in range(2)], adapter="tempo-t1", n=6)
    assert announced == [(4, 8), (4, 4), (2, 2), (2, 0)]


def test_a_request_pins_the_version_the_temperature_and_the_priority() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return completions(request)

    sampler(answer).sample([Prompt("a", (1, 2))], adapter="tempo-t9", n=2)
    body = json.loads(requests[-1].content)
    assert requests[-1].headers["x-tempo-key"] == "tk_x"
    assert (body["model"], body["priority"]) == ("tempo-t9", PRIORITY)
    assert "seed" not in body
    assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 1.0, 0)
    assert body["return_token_ids"] is True


def test_an_answer_of_another_version_is_an_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return metrics(0)
        return httpx.Response(200, json={**completions(request).json(), "model": "base"})

    with pytest.raises(SamplingError, match="base answered a request for tempo-t1; check"):
        sampler(answer).sample([Prompt("a", (1,))], adapter="tempo-t1", n=1)


def test_the_sampler_waits_for_a_server_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempo_trainer.sampling.sampler.RETRY_SECONDS", 0.01)
    failures = iter([httpx.ConnectError("refused"), httpx.ReadError("gone"), 503])

    def answer(request: httpx.Request) -> httpx.Response:
        match next(failures, None):
            case None:
                return completions(request)
            case int(status):
                return httpx.Response(status)
            case error:
                raise error

    assert sampler(answer).sample([Prompt("a", (1,))], adapter="tempo-v0", n=1)


def test_a_server_that_stays_away_is_an_error_with_its_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(SamplingError, match="no answer from http://vllm"):
        sampler(answer, patience_seconds=0.0).sample([Prompt("a", (1,))], adapter="tempo-v0", n=1)


def test_an_error_quotes_vllm_s_refusal() -> None:
    with pytest.raises(SamplingError, match="400 to /v1/completions: too long"):
        sampler(lambda _: httpx.Response(400, text="too long")).sample(
            [Prompt("a", (1,))], adapter="tempo-v0", n=1
        )


def test_each_content_is_tokenised_once_and_a_too_long_one_left_out() -> None:
    texts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        texts.append(text)
        return httpx.Response(200, json={"tokens": list(range(len(text))), "max_model_len": 10})

    client = sampler(answer)
    questions = [
        Question(text, [{"role": "user", "content": text}]) for text in ("abc", "far too long")
    ]
    for _ in range(2):
        assert client.prompts(questions) == [Prompt("abc", (0, 1, 2))]
    assert sorted(texts) == ["abc", "far too long"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_vllm_refuses_is_left_out_and_the_others_are_asked(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if b"poison" in request.content:
            return httpx.Response(status, json={"error": "roles must alternate: poison"})
        return httpx.Response(200, json={"tokens": [1], "max_model_len": 10})

    questions = [Question(text, [{"role": "user", "content": text}]) for text in ("poison", "a")]
    assert sampler(answer).prompts(questions) == [Prompt("a", (1,))]
    assert "refuses" in caplog.text
    assert "poison" not in caplog.text


def test_a_response_as_long_as_the_model_is_an_error_that_names_both() -> None:
    reply = httpx.Response(200, json={"tokens": [1], "max_model_len": 4})
    client = sampler(lambda _: reply)
    with pytest.raises(SamplingError, match=r"TEMPO_MAX_RESPONSE_TOKENS, 4, .* of 4; lower"):
        client.prompts([Question("a", [{"role": "user", "content": "a"}])])


# Users come first --------------------------------------------------------------------------------


@dataclass
class Vllm:
    """A server whose queue the test fills; it notes the paths of its requests, in order."""

    waiting: Callable[[], int]
    paths: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        return metrics(self.waiting()) if self.paths[-1] == "/metrics" else completions(request)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempo_trainer.sampling.sampler.QUEUE_SECONDS", 0.01)


def sample(client: Sampler, prompts: int = 1) -> list[list[Any]]:
    every = [Prompt(str(i), (i,)) for i in range(prompts)]
    return client.sample(every, adapter="tempo-t1", n=1)


@pytest.mark.usefixtures("fast")
def test_no_rollout_is_sent_while_somebody_queues() -> None:
    queue = iter([3, 1, 0])
    vllm = Vllm(lambda: next(queue))
    client = sampler(vllm)
    assert len(sample(client)) == 1
    assert vllm.paths == ["/metrics"] * 3 + ["/v1/completions"]
    assert client.take_held_back() >= 0.02
    assert client.take_held_back() == 0.0


def test_rollouts_stop_within_a_second_after_users_begin_to_queue() -> None:
    starts: list[float] = []  # of the users' queue; one or none
    sent: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        now = time.monotonic()
        if request.url.path == "/metrics":
            return metrics(int(bool(starts) and starts[0] < now < starts[0] + 2.0))
        sent.append(now)
        if len(sent) == 20:
            starts.append(now)
        time.sleep(0.01)
        return completions(request)

    sample(sampler(answer, prompts_per_request=1, group_size=1), prompts=100)
    assert len(sent) == 100
    assert [t for t in sent if starts[0] + 1.0 < t < starts[0] + 2.0] == []


@pytest.mark.usefixtures("fast")
def test_rollouts_go_on_after_patience_if_the_queue_is_never_empty() -> None:
    vllm = Vllm(lambda: 1)
    client = sampler(vllm, patience_seconds=0.3)
    assert len(sample(client)) == 1
    assert 0 < client.take_held_back() < 5.0


def test_a_worker_that_stops_holds_nothing_back() -> None:
    client = sampler(Vllm(lambda: 1), should_stop=lambda: True)
    assert len(sample(client)) == 1
    assert client.take_held_back() < 1.0


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_that_does_not_show_its_queue_is_sampled_at_once(status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        is_metrics = request.url.path == "/metrics"
        return httpx.Response(status, text="nothing") if is_metrics else completions(request)

    assert len(sample(sampler(answer))) == 1


@pytest.mark.usefixtures("fast")
def test_rollouts_wait_for_a_server_too_busy_to_show_its_queue() -> None:
    failures = iter([httpx.ReadTimeout("busy"), httpx.ConnectError("away")])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            raise next(failures)
        return completions(request)

    client = sampler(answer)
    assert len(sample(client)) == 1
    assert client.take_held_back() > 0
    assert next(failures, None) is None


def test_one_look_at_the_queue_serves_all_requests() -> None:
    vllm = Vllm(lambda: 0)
    sample(sampler(vllm, prompts_per_request=1, group_size=1), prompts=20)
    assert vllm.paths.count("/metrics") < vllm.paths.count("/v1/completions") == 20
