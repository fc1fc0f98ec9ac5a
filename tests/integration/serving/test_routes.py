"""The four routes on real vLLM: one version, one answer, one question, streamed or not."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from answers import Answer, chat, completion
from traffic import take_questions, wait_for_questions

from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

QUESTION = countdown.puzzles()[1234].question
LENGTH = 14
GREEDY: dict[str, Any] = {"temperature": 0}


def chats(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    return chat(server, text, stream=stream, max_tokens=LENGTH, **GREEDY, **options)


def completions(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    return completion(server, text, stream=stream, max_tokens=LENGTH, **GREEDY, **options)


def responses(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    raw = server.client.responses.with_raw_response.create(
        model="tempo",
        input=text,
        max_output_tokens=LENGTH,
        stream=stream,
        **GREEDY,
        **options,
    )
    adapter = raw.headers["x-tempo-adapter"]
    if not stream:
        reply = raw.parse()
        return Answer(
            adapter,
            frozenset({reply.model}),
            reply.output_text,
            prompt_tokens=reply.usage.input_tokens,
        )
    events = list(raw.parse())
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    models = frozenset(e.response.model for e in events if hasattr(e, "response"))
    return Answer(adapter, models, text)


def messages(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    headers = options.pop("extra_headers", None)
    body = {
        "model": "tempo",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": LENGTH,
        "stream": stream,
        **GREEDY,
        **options.pop("extra_body", {}),
        **options,
    }
    reply = server.http.post("/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    adapter = reply.headers["x-tempo-adapter"]
    if not stream:
        message = reply.json()
        return Answer(
            adapter,
            frozenset({message["model"]}),
            message["content"][0]["text"],
            prompt_tokens=message["usage"]["input_tokens"],
        )
    lines = reply.text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    models = frozenset(e["message"]["model"] for e in events if "message" in e)
    return Answer(adapter, models, "".join(delta.get("text", "") for delta in deltas))


Route = Callable[..., Answer]
ROUTES: list[Route] = [chats, completions, responses, messages]
CAPTURED: list[Route] = [chats, responses, messages]


@pytest.fixture(scope="module", autouse=True)
def serving(server: Any, make_version: Any) -> Iterator[str]:
    """The name of a new version that serves."""
    version = make_version(seed=11, scale=1.0)
    server.promote(version)
    yield version_name(version)
    server.serve_base()


@pytest.fixture(autouse=True)
def empty_stream(server: Any) -> None:
    time.sleep(0.3)
    take_questions(server)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_route_gives_the_same_answer_from_the_version_that_serves(
    server: Any, serving: str, route: Route, stream: bool
) -> None:
    batch = {"model": serving, "messages": [[{"role": "user", "content": QUESTION}]]}
    options = GREEDY | {"max_tokens": LENGTH}
    # The plugin does not wrap this route.
    stock = server.http.post("/v1/chat/completions/batch", json=batch | options).json()
    answer = route(server, QUESTION, stream=stream)
    assert (answer.adapter, answer.models) == (serving, {serving})
    assert answer.text.strip() == stock["choices"][0]["message"]["content"].strip()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_chat_route_captures_its_question_unless_the_user_opts_out(
    server: Any, serving: str, route: Route, stream: bool
) -> None:
    route(server, "use 9 9 9", stream=stream, extra_body={"store": False})
    route(server, "use 8 8 8", stream=stream, extra_headers={"X-Tempo-Opt-Out": "1"})
    route(server, QUESTION, stream=stream)
    expected = [[{"role": "user", "content": QUESTION}]] if route in CAPTURED else []
    questions = wait_for_questions(server, {QUESTION} if expected else set())
    assert [question["messages"] for question in questions] == expected


@pytest.mark.parametrize(
    ("route", "options"),
    [
        (chats, {"reasoning_effort": "low"}),
        (responses, {"instructions": "use 1 2 3 ", "reasoning": {"effort": "low"}}),
        (
            messages,
            {"system": [{"type": "text", "text": "use 1 "}, {"type": "text", "text": "2 "}]},
        ),
    ],
)
def test_a_captured_question_renders_to_the_user_s_own_prompt(
    server: Any, route: Route, options: dict[str, Any]
) -> None:
    answer = route(server, QUESTION, stream=False, **options)
    (question,) = wait_for_questions(server, {QUESTION})
    kept = {name: question[name] for name in ("messages", "chat_template_kwargs")}
    rendered = server.http.post("/tokenize", json={"model": "tempo", **kept}).json()
    assert len(rendered["tokens"]) == answer.prompt_tokens
    assert answer.prompt_tokens > LENGTH // 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": QUESTION * 40}]}),
        ("completions", {"prompt": QUESTION * 40}),
        ("responses", {"input": QUESTION * 40}),
        ("messages", {"messages": [{"role": "user", "content": QUESTION * 40}], "max_tokens": 9}),
    ],
)
def test_a_request_that_vllm_refuses_gets_vllm_s_own_message_and_is_not_captured(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    reply = server.http.post(f"/v1/{path}", json={"model": "tempo", **body})
    assert reply.status_code == 400
    assert "maximum context length is 128" in reply.json()["error"]["message"]
    assert wait_for_questions(server, set()) == []
