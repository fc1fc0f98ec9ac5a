"""A request holds its adapter from its binding until its answer has been sent, failed or cut.

The routes are wrapped and the bindings are real; the requests are ASGI calls, so that a test sees
each message and can hang up.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tempo_server.serving import endpoints
from tempo_server.serving.endpoints import EndpointContext

PATH = "/v1/chat/completions"


class Body(BaseModel):
    """A request, whose model is set by the wrapped endpoint."""

    model: str


class Server:
    """An app with a wrapped endpoint that a test writes, and real bindings."""

    def __init__(self, names: Any) -> None:
        self.bindings = names.bindings
        self.messages: list[dict[str, Any]] = []
        self.held: list[bool] = []  # whether the request held its adapter at each message
        self.is_cut = asyncio.Event()
        self.is_wrapped_again = False  # whether another plugin has put routes around ours

    def in_flight(self) -> bool:
        """Tell whether a request holds tempo-t1, which nothing else holds in these tests."""
        return "tempo-t1" in self.bindings._in_flight

    async def request(
        self, answer: Callable[[], Any], *, on_message: Callable[[Any], None] = lambda _: None
    ) -> None:
        """Send a request for tempo-t1 to an endpoint that answers with `answer()`."""
        body = json.dumps({"model": "tempo-t1"}).encode()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await self.is_cut.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.messages.append(message)
            self.held.append(self.in_flight())
            on_message(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await self._app(answer)(scope, receive, send)

    def _app(self, answer: Callable[[], Any]) -> FastAPI:
        app = FastAPI()

        async def endpoint(request: Body, raw_request: Request) -> Any:
            assert request.model.startswith("tempo-t1~")
            return answer()

        for path in endpoints.WRAPPED:
            app.add_api_route(path, endpoint, methods=["POST"])
        app.add_api_route("/v1/models", lambda raw_request: None, methods=["GET"])
        endpoints.wrap(app)
        if self.is_wrapped_again:
            app.router.routes = [
                APIRoute(route.path, route.endpoint, methods=route.methods)
                for route in app.router.routes
                if isinstance(route, APIRoute)
            ]
        capture: Any = None
        app.state.tempo_endpoints = EndpointContext(
            bindings=self.bindings, capture=capture, is_admin_key=lambda _: True
        )
        return app

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


@pytest.fixture
def server(names: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(endpoints, "KEY_HEADER", "content-type")  # every request is an admin's
    return Server(names)


def streaming(parts: Callable[[], AsyncIterator[str]]) -> Callable[[], StreamingResponse]:
    return lambda: StreamingResponse(parts(), media_type="text/event-stream")


def test_a_whole_answer_holds_its_adapter_until_it_has_been_sent(server: Server) -> None:
    asyncio.run(server.request(lambda: JSONResponse({"text": "45"})))
    assert server.body() == b'{"text":"45"}'
    assert server.held == [True, True]
    assert not server.in_flight()


def test_a_stream_holds_its_adapter_to_its_last_byte(server: Server) -> None:
    async def parts() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    asyncio.run(server.request(streaming(parts)))
    assert server.body() == b"ab"
    assert server.messages[-1]["more_body"] is False
    assert all(server.held)
    assert not server.in_flight()


def test_a_client_that_hangs_up_in_a_stream_ends_its_request(server: Server) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "a"
            await asyncio.sleep(0.01)

    async def hang_up() -> None:
        await asyncio.wait_for(server.request(streaming(endless), on_message=cut_after_body), 5)

    def cut_after_body(message: Any) -> None:
        if message.get("body"):
            server.is_cut.set()

    asyncio.run(hang_up())
    assert all(server.held)
    assert not server.in_flight()


def test_a_client_that_can_no_longer_be_written_to_ends_its_request(server: Server) -> None:
    async def parts() -> AsyncIterator[str]:
        yield "a"

    def refuse(message: Any) -> None:
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        asyncio.run(server.request(streaming(parts), on_message=refuse))
    assert not server.in_flight()


def test_a_stream_that_fails_ends_its_request(server: Server) -> None:
    async def parts() -> AsyncIterator[str]:
        yield "a"
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        asyncio.run(server.request(streaming(parts)))
    assert server.body() == b"a"
    assert not server.in_flight()


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(503, "overloaded"), 503), (RuntimeError("a defect"), 500)]
)
def test_an_endpoint_that_raises_ends_its_request(
    server: Server, error: Exception, status: int
) -> None:
    def fail() -> None:
        raise error

    if status == 503:
        asyncio.run(server.request(fail))
        assert server.messages[0]["status"] == 503
    else:
        with pytest.raises(RuntimeError, match="a defect"):
            asyncio.run(server.request(fail))
    assert not server.in_flight()


def test_a_request_whose_client_left_before_the_answer_ends(server: Server) -> None:
    asyncio.run(server.request(lambda: None))  # vLLM returns None then
    assert not server.in_flight()


def test_a_cancelled_request_ends(server: Server) -> None:
    async def stuck() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(60)

    async def cancel() -> None:
        request = asyncio.create_task(server.request(streaming(stuck)))
        while not server.body():
            await asyncio.sleep(0.01)
        assert server.in_flight()
        request.cancel()
        await asyncio.wait({request}, timeout=5)

    asyncio.run(cancel())
    assert not server.in_flight()


def test_behind_another_plugin_s_routes_a_request_is_answered_and_ends(server: Server) -> None:
    server.is_wrapped_again = True

    async def request_and_collect() -> None:
        await server.request(lambda: JSONResponse({"text": "45"}))
        gc.collect()
        await asyncio.sleep(0.01)
        assert not server.in_flight()

    asyncio.run(request_and_collect())
    assert server.body() == b'{"text":"45"}'
