"""Capture on the four wrapped routes, with vLLM's own request classes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import send
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from ledgers import user
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Counters, Spool
from tempo_server.capture.tenants import Tenants
from tempo_server.serving import endpoints
from tempo_server.serving.bindings import Binding
from tempo_server.serving.endpoints import EndpointContext
from tempo_server.settings import ServerSettings

KEY = "tk_worker"
TEXT = "use 3 10 15 make 45 ?"
MESSAGES = user(TEXT)
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"input": TEXT},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
}
CLASSES = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": AnthropicMessagesRequest,
}
NOBODY = Tenants()
CAPTURED = [path for path in REQUESTS if path != "/v1/completions"]


class FakeBindings:
    """Binds everything to tempo-v7."""

    @asynccontextmanager
    async def bind(self, model: str | None, *, is_admin: bool) -> AsyncIterator[Binding]:
        yield Binding(key="tempo-v7~secret", name="tempo-v7")


class CapturingApp:
    """An app with vLLM's routes, wrapped, and the spool into which they capture."""

    def __init__(self, root: Path, tenants: Tenants = NOBODY, **settings: Any) -> None:
        self.root = root
        spool = Spool(root, limit_bytes=1 << 20)
        self.counters = spool.counters
        self.app = FastAPI()
        for path, request_class in CLASSES.items():
            self.app.add_api_route(path, stock_endpoint(request_class), methods=["POST"])
        self.app.add_api_route("/v1/models", lambda raw_request: None, methods=["GET"])
        endpoints.wrap(self.app)
        bindings: Any = FakeBindings()
        self.app.state.tempo_endpoints = EndpointContext(
            bindings=bindings,
            capture=Capture(ServerSettings(data_dir=root, **settings), spool, tenants),
            is_admin_key=lambda key: key == KEY,
        )

    def post(self, path: str, *, headers: Any = None, **fields: Any) -> httpx.Response:
        body = {"model": "tempo", **REQUESTS[path], **fields}
        return send(self.app, "POST", path, json=body, headers=headers)

    def records(self) -> list[dict[str, Any]]:
        files = self.root.glob("*.active")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def stock_endpoint(request_class: Any) -> Any:
    async def endpoint(request: Any, raw_request: Request) -> Any:
        if isinstance(request, ResponsesRequest):
            request.store = False  # as vLLM does if it stores no responses
        with pytest.raises(asyncio.TimeoutError):  # vLLM, too, waits here until the client hangs up
            await asyncio.wait_for(raw_request.receive(), 0.01)
        if request.stream:
            return StreamingResponse(chunks(request.model), media_type="text/event-stream")
        return JSONResponse({"model": request.model})

    endpoint.__annotations__["request"] = request_class
    return endpoint


async def chunks(model: str) -> AsyncIterator[str]:
    for _ in range(3):
        yield f"data: {model}\n\n"


@pytest.fixture
def app(tmp_path: Path) -> CapturingApp:
    return CapturingApp(tmp_path)


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Counters(captured=1, spooled=1)),
        ({"headers": {"X-Tempo-Opt-Out": "1"}}, Counters(opted_out=1)),
        ({"store": False}, Counters(opted_out=1)),
        ({"headers": {"X-Tempo-Key": KEY}}, Counters()),
    ],
    ids=["user", "opted out by header", "opted out by store", "admin"],
)
def test_each_route_binds_all_requests_and_captures_users_who_did_not_opt_out(
    app: CapturingApp, path: str, stream: bool, options: dict[str, Any], expected: Counters
) -> None:
    response = app.post(path, stream=stream, **options)
    assert response.headers["x-tempo-adapter"] == "tempo-v7"
    assert response.text.count("tempo-v7~secret") == (3 if stream else 1)
    if path == "/v1/completions" and expected.captured:
        expected = Counters(skipped=1)  # a raw prompt is no chat message
    assert app.counters == expected
    assert [q["messages"] for q in app.records()] == [MESSAGES] * expected.captured


@pytest.mark.parametrize("path", REQUESTS)
def test_capture_off_keeps_and_counts_nothing(tmp_path: Path, path: str) -> None:
    app = CapturingApp(tmp_path, capture="off")
    assert app.post(path).status_code == 200
    assert app.counters == Counters()


@pytest.mark.parametrize("path", CAPTURED)
def test_the_system_message_and_the_effort_are_kept_alike_on_each_route(
    app: CapturingApp, path: str
) -> None:
    system = {
        "/v1/chat/completions": {
            "messages": [{"role": "system", "content": "be brief"}, *MESSAGES]
        },
        "/v1/responses": {"instructions": "be brief"},
        "/v1/messages": {"system": [{"type": "text", "text": "be brief"}]},
    }
    effort = {
        "/v1/chat/completions": {"reasoning_effort": "low"},
        "/v1/responses": {"reasoning": {"effort": "low"}},
        "/v1/messages": {"output_config": {"effort": "low"}},
    }
    app.post(path, **system[path], **effort[path], chat_template_kwargs={"x": 1})
    (question,) = app.records()
    assert question["messages"] == [{"role": "system", "content": "be brief"}, *MESSAGES]
    implied = {"reasoning_effort": "low", "enable_thinking": True}
    assert question["chat_template_kwargs"] == {**implied, "x": 1}


@pytest.mark.parametrize("path", CAPTURED)
def test_the_sampling_of_a_request_is_kept_alike_on_each_route(
    app: CapturingApp, path: str
) -> None:
    limit = {"/v1/chat/completions": "max_completion_tokens", "/v1/responses": "max_output_tokens"}
    app.post(path, temperature=0.5, top_p=0.9, top_k=20, **{limit.get(path, "max_tokens"): 64})
    app.post(path)
    chosen, silent = app.records()
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "max_tokens": 64}
    assert {name: chosen[name] for name in sampling} == sampling
    assert [silent[name] for name in ("temperature", "top_p", "top_k")] == [None, None, None]


HISTORY = [*MESSAGES, {"role": "assistant", "content": "45 !"}, *MESSAGES]


@pytest.mark.parametrize("path", CAPTURED)
def test_a_conversation_in_text_is_kept(app: CapturingApp, path: str) -> None:
    name = "input" if path == "/v1/responses" else "messages"
    app.post(path, **{name: HISTORY})
    assert [q["messages"] for q in app.records()] == [HISTORY]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1/chat/completions", ("text", "text")),
        ("/v1/responses", ("input_text", "output_text")),
        ("/v1/messages", ("text", "text")),
    ],
)
def test_text_parts_are_read_as_text(app: CapturingApp, path: str, parts: tuple[str, str]) -> None:
    def message(role: str, part_type: str, *texts: str) -> dict[str, Any]:
        content = [{"type": part_type, "text": text} for text in texts]
        return {"type": "message", "role": role, "content": content}

    question_part, answer_part = parts
    history = [
        message("user", question_part, "a"),
        message("assistant", answer_part, "b"),
        message("user", question_part, "c", "d"),
    ]
    if path == "/v1/responses":
        app.post(path, input=history)
    else:
        plain = [{k: v for k, v in item.items() if k != "type"} for item in history]
        app.post(path, messages=plain)
    (question,) = app.records()
    last = [{"type": "text", "text": text} for text in ("c", "d")]
    assert [m["content"] for m in question["messages"]] == ["a", "b", last]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "3"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]}
IMAGE = {"type": "input_image", "image_url": "data:,", "detail": "auto"}
SCHEMA = {"type": "object"}
FORM = {"name": "answer", "schema": SCHEMA}
OPEN = {"type": "message", "role": "user", "status": "in_progress"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": FUNCTION}]}),
        ("/v1/chat/completions", {"truncate_prompt_tokens": 8}),
        ("/v1/chat/completions", {"add_generation_prompt": False}),
        ("/v1/responses", {"tools": [{"type": "function", "strict": False, **FUNCTION}]}),
        ("/v1/responses", {"previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": [*MESSAGES, CALL, RESULT]}),
        ("/v1/responses", {"input": [*MESSAGES, THOUGHT, *MESSAGES]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [IMAGE]}]}),
        ("/v1/responses", {"input": [*MESSAGES, {"role": "assistant", "content": "4"}]}),
        ("/v1/responses", {"input": [OPEN | {"content": [{"type": "input_text", "text": "a"}]}]}),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": {}}]}),
        ("/v1/messages", {"thinking": {"type": "disabled"}}),
        ("/v1/messages", {"messages": [{"role": "system", "content": "now"}, *MESSAGES]}),
        ("/v1/messages", {"messages": [*MESSAGES, {"role": "assistant", "content": "4"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("/v1/messages", {"system": "x" * 40_000}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": FORM}}),
        ("/v1/chat/completions", {"structured_outputs": {"regex": "[0-9]+"}}),
        ("/v1/chat/completions", {"guided_choice": ["yes", "no"]}),
        ("/v1/chat/completions", {"messages": user("  ")}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", **FORM}}}),
        ("/v1/responses", {"structured_outputs": {"choice": ["yes", "no"]}}),
        ("/v1/responses", {"input": "\n"}),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        ("/v1/messages", {"messages": user("\u2003")}),
        ("/v1/messages", {"messages": [{"role": "user", "content": []}]}),
    ],
)
def test_a_question_that_the_trainer_could_not_ask_again_is_answered_skipped_and_counted(
    app: CapturingApp, path: str, fields: dict[str, Any]
) -> None:
    response = app.post(path, **fields)
    assert response.status_code == 200, response.text
    assert app.counters == Counters(skipped=1)
    assert app.records() == []


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "text"}}),
        ("/v1/responses", {"text": {"format": {"type": "text"}}}),
        ("/v1/responses", {"text": {"verbosity": "low"}}),
        ("/v1/messages", {"output_config": {"effort": "low"}}),
        ("/v1/chat/completions", {"messages": [{"annotations": [], **MESSAGES[0]}]}),
    ],
)
def test_a_request_for_plain_text_is_captured(
    app: CapturingApp, path: str, fields: dict[str, Any]
) -> None:
    assert app.post(path, **fields).status_code == 200
    assert [question["messages"] for question in app.records()] == [MESSAGES]


def test_the_keys_of_both_kinds_of_clients_tell_tenants_apart(tmp_path: Path) -> None:
    app = CapturingApp(tmp_path, Tenants(keys={"a", "b"}))
    for key in ("a", "b", "invented"):
        app.post("/v1/messages", headers={"X-Api-Key": key})
        app.post("/v1/responses", headers={"Authorization": f"Bearer {key}"})
    tenants = [question["tenant"] for question in app.records()]
    assert tenants[::2] == tenants[1::2]
    assert len(set(tenants)) == 3
    assert tenants[-1] == ""


def test_claude_code_s_attribution_is_not_part_of_the_question(app: CapturingApp) -> None:
    blocks = ["x-anthropic-billing-header: 1f", "be ", "brief"]
    app.post("/v1/messages", system=[{"type": "text", "text": text} for text in blocks])
    (question,) = app.records()
    assert question["messages"][0] == {"role": "system", "content": "be brief"}
