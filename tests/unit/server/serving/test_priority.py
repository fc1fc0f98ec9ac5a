"""No user goes before others on the routes of vLLM that the plugin does not wrap."""

import asyncio
import json
from typing import Any

import pytest
from asgi import send
from fastapi import FastAPI, Request
from pydantic import BaseModel

from tempo_server.serving.priority import PriorityMiddleware

KEY = {"x-tempo-key": "tk_worker"}
BATCH = "/v1/chat/completions/batch"
INVOCATIONS = "/invocations"
CHECKED = "/v1/chat/completions"
OWN = "/tempo/v1/files"
BEFORE_OTHERS = [-1, -(2**62), -(10**400), 2**63, "-1", " -1 ", -1.0, "-1.0"]
FAIR = [0, 5, 2**63 - 1, "7", 3.0, True]
# vLLM refuses or ignores them.
NO_NUMBERS = [None, "none", [], {}, 0.5]


class Body(BaseModel):
    """A request whose priority FastAPI reads."""

    model: str = "tempo"
    priority: Any = 0


def make_app(root_path: str = "") -> FastAPI:
    """Return an app with two of vLLM's other routes, a wrapped one, and one of our own."""
    app = FastAPI(root_path=root_path)

    async def batch(request: Body) -> Any:
        return request.priority

    async def plain(raw_request: Request) -> Any:
        body = await raw_request.body()
        with pytest.raises(asyncio.TimeoutError):  # vLLM waits here until the client hangs up
            await asyncio.wait_for(raw_request.receive(), 0.01)
        return body.decode(errors="replace")

    app.add_api_route(BATCH, batch, methods=["POST"])
    for path in (INVOCATIONS, CHECKED, OWN):
        app.add_api_route(path, plain, methods=["GET", "POST"])
    app.add_middleware(
        PriorityMiddleware,
        checked_paths=[CHECKED],
        is_admin=lambda connection: "x-tempo-key" in connection.headers,
    )
    return app


def post(path: str, priority: Any, *, root_path: str = "", **options: Any) -> Any:
    content = json.dumps({"model": "tempo", "priority": priority}).encode()
    headers = {"content-type": "application/json"} | options.pop("headers", {})
    app = make_app(root_path)
    return send(app, "POST", root_path + path, content=content, headers=headers, **options)


def is_refused(reply: Any) -> bool:
    return bool(
        reply.status_code == 400
        and (reply.json()["error"]["code"], reply.json()["error"]["param"])
        == ("invalid_value", "priority")
    )


@pytest.mark.parametrize("path", [BATCH, INVOCATIONS])
@pytest.mark.parametrize("priority", BEFORE_OTHERS)
def test_a_priority_before_others_is_refused_unless_the_worker_sends_it(
    path: str, priority: Any
) -> None:
    assert is_refused(post(path, priority))
    assert is_refused(post(path, priority, headers={"X-Vllm-Priority": "5"}))
    assert post(path, priority, headers=KEY).status_code == 200


@pytest.mark.parametrize("priority", ["-1", " -1 ", "-1_0", str(2**63)])
def test_a_header_before_others_is_refused_whatever_the_body_says(priority: str) -> None:
    header = {"X-Vllm-Priority": priority}
    assert is_refused(post(INVOCATIONS, 5, headers=header))
    for content in (b"", b"no JSON", b"[]", b"\xff\xfe"):
        reply = send(make_app(), "POST", INVOCATIONS, content=content, headers=header)
        assert is_refused(reply)
    assert post(INVOCATIONS, 5, headers=header | KEY).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["priority", "\\u0070riority", "priorit\\u0079"])
def test_a_dress_of_the_field_that_json_allows_hides_nothing(encoding: str, name: str) -> None:
    content = f'{{"{name}": 1, "{name}": -1}}'.encode(encoding)
    assert is_refused(send(make_app(), "POST", INVOCATIONS, content=content))


@pytest.mark.parametrize("path", [BATCH, INVOCATIONS])
@pytest.mark.parametrize("priority", [*FAIR, *NO_NUMBERS])
def test_another_request_passes_with_its_whole_body(path: str, priority: Any) -> None:
    reply = post(path, priority, headers={"X-Vllm-Priority": "none"})
    assert reply.status_code == 200
    body = reply.json()
    assert (body if path == BATCH else json.loads(body)["priority"]) == priority


@pytest.mark.parametrize("content", [b"", b"x" * 200_000, b"[" * 100_000, b"9" * 5000])
def test_a_body_that_is_no_object_passes(content: bytes) -> None:
    reply = send(make_app(), "POST", INVOCATIONS, content=content)
    assert (reply.status_code, reply.json()) == (200, content.decode())


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_the_wrapped_routes_and_ours_check_for_themselves(root_path: str) -> None:
    for path in (CHECKED, OWN):
        assert post(path, -1, root_path=root_path).status_code == 200
    assert is_refused(post(INVOCATIONS, -1, root_path=root_path))


def test_a_client_that_leaves_while_it_sends_gets_no_answer() -> None:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INVOCATIONS, "headers": []}
    asyncio.run(make_app()(scope, receive, keep))
    assert sent == []
