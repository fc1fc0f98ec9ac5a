"""The four routes with vLLM's own request classes: what is bound, what is kept, what is not."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Counters, Spool
from tempo_server.serving import endpoints
from tempo_server.serving.bindings import Binding
from tempo_server.settings import ServerSettings

KEY = "tk_worker"
TEXT = "use 3 10 15 make 45 ?"
ASKED = [{"role": "user", "content": TEXT}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": ASKED},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"input": TEXT},
    "/v1/messages": {"messages": ASKED, "max_tokens": 4},
}
CLASSES = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
}
CAPTURED = [path for path in REQUESTS if path != "/v1/completions"]


class FakeBindings:
    """Binds everything to tempo-v7."""

    async def bind(self, model: str | None, *, known_key: bool) -> Binding:
        return Binding(key="tempo-v7~secret", name="tempo-v7")


class World:
    """An app with vLLM's routes, wrapped, and the spool behind it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.counters = Counters()
        chosen = ServerSettings(data_dir=root, **settings)
        spool = Spool(root, self.counters, limit_bytes=1 << 20)
        self.app = FastAPI()
        for path, parsed in CLASSES.items():
            self.app.add_api_route(path, stock(parsed), methods=["POST"])
        self.app.add_api_route("/v1/models", lambda raw_request: None, methods=["GET"])
        runtime: Any = SimpleNamespace(
            bindings=FakeBindings(),
            capture=Capture(chosen, spool, self.counters),
            is_known_key=lambda key: key == KEY,
        )
        endpoints.wrap(self.app)
        self.app.state.tempo_runtime = runtime

    def post(self, path: str, *, headers: Any = None, **changed: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                body = {"model": "tempo", **REQUESTS[path], **changed}
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(send())

    def kept(self) -> list[dict[str, Any]]:
        lines = [file.read_text().splitlines() for file in self.root.glob("*.active")]
        return [json.loads(line) for found in lines for line in found]


def stock(parsed: Any) -> Any:
    async def answer(request: Any, raw_request: Request) -> Any:
        if isinstance(request, ResponsesRequest):
            request.store = False  # as vLLM does where it stores no responses
        with pytest.raises(asyncio.TimeoutError):  # nothing of the body is left: vLLM waits for it
            await asyncio.wait_for(raw_request.receive(), 0.01)
        if request.stream:
            return StreamingResponse(chunks(request.model), media_type="text/event-stream")
        return JSONResponse({"model": request.model})

    answer.__annotations__["request"] = parsed
    return answer


async def chunks(model: str) -> AsyncIterator[str]:
    for _ in range(3):
        yield f"data: {model}\n\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ({}, Counters(captured=1, spooled=1)),
        ({"headers": {"X-Tempo-Opt-Out": "1"}}, Counters(opted_out=1)),
        ({"store": False}, Counters(opted_out=1)),
        ({"headers": {"X-Tempo-Key": KEY}}, Counters()),
    ],
    ids=["on", "header", "store", "worker"],
)
def test_every_route_is_bound_and_captures_whom_it_may(
    world: World, path: str, stream: bool, refusal: dict[str, Any], expected: Counters
) -> None:
    response = world.post(path, stream=stream, **refusal)
    assert response.headers["x-tempo-adapter"] == "tempo-v7"
    assert response.text.count("tempo-v7~secret") == (3 if stream else 1)
    if path == "/v1/completions" and expected.captured:
        expected = Counters(skipped=1)  # a raw prompt is no chat message
    assert world.counters == expected
    assert [q["messages"] for q in world.kept()] == [ASKED] * expected.captured


@pytest.mark.parametrize("path", REQUESTS)
def test_capture_off_keeps_and_counts_nothing(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, capture="off")
    assert world.post(path).status_code == 200
    assert world.counters == Counters()


@pytest.mark.parametrize("path", CAPTURED)
def test_what_asking_again_needs_is_kept_alike(world: World, path: str) -> None:
    system = {
        "/v1/chat/completions": {"messages": [{"role": "system", "content": "be brief"}, *ASKED]},
        "/v1/responses": {"instructions": "be brief"},
        "/v1/messages": {"system": [{"type": "text", "text": "be brief"}]},
    }
    effort = {
        "/v1/chat/completions": {"reasoning_effort": "low"},
        "/v1/responses": {"reasoning": {"effort": "low"}},
        "/v1/messages": {"output_config": {"effort": "low"}},
    }
    options = {"temperature": 0.5, "chat_template_kwargs": {"x": 1}}
    world.post(path, **system[path], **effort[path], **options)
    (question,) = world.kept()
    assert question["messages"] == [{"role": "system", "content": "be brief"}, *ASKED]
    implied = {"reasoning_effort": "low", "enable_thinking": True}
    assert question["chat_template_kwargs"] == {**implied, "x": 1}
    assert question["sampling"]["temperature"] == 0.5
    assert question["adapter_version"] == 7


HISTORY = [*ASKED, {"role": "assistant", "content": "45 !"}, *ASKED]


@pytest.mark.parametrize("path", CAPTURED)
def test_a_conversation_in_text_is_kept(world: World, path: str) -> None:
    name = "input" if path == "/v1/responses" else "messages"
    world.post(path, **{name: HISTORY})
    assert [q["messages"] for q in world.kept()] == [HISTORY]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1/chat/completions", ("text", "text")),
        ("/v1/responses", ("input_text", "output_text")),
        ("/v1/messages", ("text", "text")),
    ],
)
def test_text_parts_are_text(world: World, path: str, parts: tuple[str, str]) -> None:
    def told(role: str, type_name: str, *texts: str) -> dict[str, Any]:
        content = [{"type": type_name, "text": text} for text in texts]
        return {"type": "message", "role": role, "content": content}

    asked, said = parts
    whole = [told("user", asked, "a"), told("assistant", said, "b"), told("user", asked, "c", "d")]
    if path != "/v1/responses":
        whole = [{k: v for k, v in message.items() if k != "type"} for message in whole]
    world.post(path, **{"input" if path == "/v1/responses" else "messages": whole})
    (question,) = world.kept()
    assert [m["content"] for m in question["messages"]] == ["a", "b", "c\nd"]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "3"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]}
IMAGE = {"type": "input_image", "image_url": "data:,", "detail": "auto"}
OPEN = {"type": "message", "role": "user", "status": "in_progress"}


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": FUNCTION}]}),
        ("/v1/chat/completions", {"truncate_prompt_tokens": 8}),
        ("/v1/chat/completions", {"add_generation_prompt": False}),
        ("/v1/responses", {"tools": [{"type": "function", "strict": False, **FUNCTION}]}),
        ("/v1/responses", {"previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": [*ASKED, CALL, RESULT]}),
        ("/v1/responses", {"input": [*ASKED, THOUGHT, *ASKED]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [IMAGE]}]}),
        ("/v1/responses", {"input": [*ASKED, {"role": "assistant", "content": "4"}]}),
        ("/v1/responses", {"input": [OPEN | {"content": [{"type": "input_text", "text": "a"}]}]}),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": {}}]}),
        ("/v1/messages", {"thinking": {"type": "disabled"}}),
        ("/v1/messages", {"messages": [{"role": "system", "content": "now"}, *ASKED]}),
        ("/v1/messages", {"messages": [*ASKED, {"role": "assistant", "content": "4"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("/v1/messages", {"system": "x" * 40_000}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
    ],
)
def test_what_the_trainer_could_not_ask_again_is_answered_skipped_and_counted(
    world: World, path: str, changed: dict[str, Any]
) -> None:
    response = world.post(path, **changed)
    assert response.status_code == 200, response.text
    assert world.counters == Counters(skipped=1)
    assert world.kept() == []


def test_the_header_of_anthropics_clients_tells_tenants_apart(world: World) -> None:
    for key in ("a", "b"):
        world.post("/v1/messages", headers={"X-Api-Key": key})
    assert len({q["tenant"] for q in world.kept()} - {""}) == 2


def test_claude_codes_attribution_is_no_part_of_the_question(world: World) -> None:
    blocks = ["x-anthropic-billing-header: 1f", "be ", "brief"]
    world.post("/v1/messages", system=[{"type": "text", "text": text} for text in blocks])
    (question,) = world.kept()
    assert question["messages"][0] == {"role": "system", "content": "be brief"}
