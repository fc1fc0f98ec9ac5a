"""The four routes on real vLLM: one version, one answer, one question, streaming and not."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

QUESTION = countdown.puzzles()[1234].question
LENGTH = 14
ARRIVAL_SECONDS = 5.0
Raw = Any


@dataclass(frozen=True)
class Answer:
    """What came back: the header, the names in the body or in its events, text, prompt tokens."""

    adapter: str
    models: frozenset[str]
    text: str
    prompt_tokens: int | None = None


def chat(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    raw = server.client.chat.completions.with_raw_response.create(
        model="tempo",
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=LENGTH,
        stream=stream,
        **options,
    )
    if not stream:
        got = raw.parse()
        said, used = got.choices[0].message.content, got.usage.prompt_tokens
        return answer(raw, {got.model}, said, used)
    chunks = list(raw.parse())
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return answer(raw, {c.model for c in chunks}, said)


def completions(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    raw = server.client.completions.with_raw_response.create(
        model="tempo",
        prompt=f"<bos> {text}",
        temperature=0,
        max_tokens=LENGTH,
        stream=stream,
        **options,
    )
    if not stream:
        got = raw.parse()
        return answer(raw, {got.model}, got.choices[0].text, got.usage.prompt_tokens)
    chunks = list(raw.parse())
    return answer(raw, {c.model for c in chunks}, "".join(c.choices[0].text for c in chunks))


def responses(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    raw = server.client.responses.with_raw_response.create(
        model="tempo",
        input=text,
        temperature=0,
        max_output_tokens=LENGTH,
        stream=stream,
        **options,
    )
    if not stream:
        got = raw.parse()
        return answer(raw, {got.model}, got.output_text, got.usage.input_tokens)
    events = list(raw.parse())
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    return answer(raw, {e.response.model for e in events if hasattr(e, "response")}, said)


def messages(server: Any, text: str, *, stream: bool, **options: Any) -> Answer:
    headers = options.pop("extra_headers", None)
    body = {
        "model": "tempo",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": LENGTH,
        "stream": stream,
        **options.pop("extra_body", {}),
        **options,
    }
    reply = server.http.post("/v1/messages", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    if not stream:
        got = reply.json()
        return answer(
            reply, {got["model"]}, got["content"][0]["text"], got["usage"]["input_tokens"]
        )
    events = [
        json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")
    ]
    said = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    return answer(reply, {e["message"]["model"] for e in events if "message" in e}, said)


def answer(
    reply: httpx.Response | Raw, models: set[str], text: str, prompt_tokens: int | None = None
) -> Answer:
    return Answer(reply.headers["x-tempo-adapter"], frozenset(models), text.strip(), prompt_tokens)


Route = Callable[..., Answer]
ROUTES: list[Route] = [chat, completions, responses, messages]
CAPTURED: list[Route] = [chat, responses, messages]


@pytest.fixture(scope="module", autouse=True)
def serving(server: Any, make_version: Any) -> Iterator[str]:
    version = make_version(seed=11, scale=1.0)
    server.promote(version)
    yield version_name(version)
    server.serve_base()


@pytest.fixture(autouse=True)
def nothing_waits(server: Any) -> None:
    time.sleep(0.3)
    arrived(server)


def arrived(server: Any) -> list[dict[str, Any]]:
    entries = server.stream.read(10_000)
    if entries:
        server.stream.acknowledge([entry_id for entry_id, _ in entries])
    return [question for _, question in entries]


def wait_for(server: Any, count: int) -> list[dict[str, Any]]:
    """Take `count` questions, and what comes in a little longer."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while time.monotonic() < deadline and len(found) < count:
        found += arrived(server)
        time.sleep(0.05)
    time.sleep(0.4)
    return found + arrived(server)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_route_answers_alike_from_the_version_that_serves(
    server: Any, serving: str, route: Route, stream: bool
) -> None:
    batch = {"model": serving, "messages": [[{"role": "user", "content": QUESTION}]]}
    options = {"temperature": 0, "max_tokens": LENGTH}
    # A route that is not wrapped.
    stock = server.http.post("/v1/chat/completions/batch", json=batch | options).json()
    got = route(server, QUESTION, stream=stream)
    assert (got.adapter, got.models) == (serving, {serving})
    assert got.text == stock["choices"][0]["message"]["content"].strip()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_route_captures_its_question_and_nobody_who_opts_out(
    server: Any, serving: str, route: Route, stream: bool
) -> None:
    route(server, "use 9 9 9", stream=stream, extra_body={"store": False})
    route(server, "use 8 8 8", stream=stream, extra_headers={"X-Tempo-Opt-Out": "1"})
    route(server, QUESTION, stream=stream)
    expected = [[{"role": "user", "content": QUESTION}]] if route in CAPTURED else []
    found = wait_for(server, len(expected))
    assert [question["messages"] for question in found] == expected
    assert {version_name(q["adapter_version"]) for q in found} <= {serving}


@pytest.mark.parametrize(
    ("route", "options"),
    [
        (chat, {"reasoning_effort": "low"}),
        (responses, {"instructions": "use 1 2 3 ", "reasoning": {"effort": "low"}}),
        (
            messages,
            {"system": [{"type": "text", "text": "use 1 "}, {"type": "text", "text": "2 "}]},
        ),
    ],
)
def test_what_was_captured_renders_to_the_users_own_prompt(
    server: Any, route: Route, options: dict[str, Any]
) -> None:
    got = route(server, QUESTION, stream=False, **options)
    (question,) = wait_for(server, 1)
    kept = {name: question[name] for name in ("messages", "chat_template_kwargs")}
    rendered = server.http.post("/tokenize", json={"model": "tempo", **kept}).json()
    assert len(rendered["tokens"]) == got.prompt_tokens
    assert got.prompt_tokens > LENGTH // 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": QUESTION * 40}]}),
        ("completions", {"prompt": QUESTION * 40}),
        ("responses", {"input": QUESTION * 40}),
        ("messages", {"messages": [{"role": "user", "content": QUESTION * 40}], "max_tokens": 9}),
    ],
)
def test_what_vllm_refuses_is_refused_in_its_own_words_and_not_captured(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    reply = server.http.post(f"/v1/{path}", json={"model": "tempo", **body})
    assert reply.status_code == 400
    assert "maximum context length is 128" in reply.json()["error"]["message"]
    assert wait_for(server, 0) == []
