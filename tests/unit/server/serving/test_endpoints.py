"""The wrapper around vLLM's endpoint functions, on an app of the same shape."""

import asyncio
import gc
import json
import sys
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from tempo_server import errors
from tempo_server.errors import StartError
from tempo_server.serving import endpoints
from tempo_server.serving.bindings import Binding
from tempo_storage.errors import CorruptAdapterError

KEY = "tk_worker"


class Body(BaseModel):
    """A request of either route."""

    model: str | None = None
    stream: bool = False


class FakeBindings:
    """Binds `tempo` and, with a key, `tempo-t1`; finds `tempo-v9` damaged."""

    async def bind(self, model: str | None, *, known_key: bool) -> Binding | None:
        if model == "tempo-v9":
            raise CorruptAdapterError("tempo-v9: damaged; roll back to another version")
        if model == "tempo":
            return Binding(key="tempo-v7~secret", name="tempo-v7")
        return Binding(key="tempo-t1~secret", name="tempo-t1") if known_key else None

    def is_listed(self, card_id: str) -> bool:
        return not card_id.startswith("tempo-t")


class FakeCapture:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def keep(self, request: Any, shape: Any, *, version: int, **_: Any) -> None:
        self.seen.append(version)


def stock_app() -> FastAPI:
    """Return an app with vLLM's routes."""
    app = FastAPI()

    async def chat(request: Body, raw_request: Request) -> Any:
        if request.model is None or not request.model.endswith("~secret"):
            return JSONResponse({"error": {"message": f"no {request.model}"}}, 404)
        if request.stream:
            return StreamingResponse(chunks(request.model), media_type="text/event-stream")
        return JSONResponse({"model": request.model})

    async def models(raw_request: Request) -> JSONResponse:
        names = ["tiny", "tempo-v7", "tempo-v7", "tempo-t1", "tempo-v7"]
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    for path in endpoints.WRAPPED:
        app.add_api_route(path, chat, methods=["POST"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    return app


async def chunks(model: str) -> AsyncIterator[str]:
    for i in range(3):
        yield f"data: {json.dumps({'model': model, 'i': i})}\n\n"


class World:
    """A wrapped app."""

    def __init__(self) -> None:
        self.capture = FakeCapture()
        self.app = stock_app()
        runtime: Any = SimpleNamespace(
            bindings=FakeBindings(), capture=self.capture, is_known_key=lambda key: key == KEY
        )
        endpoints.wrap(self.app)
        self.app.state.tempo_runtime = runtime

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def chat(self, model: str | None, path: str = "/v1/chat/completions", **o: Any) -> Any:
        body = {"model": model, "stream": o.pop("stream", False)}
        return self.request("POST", path, json=body, **o)


@pytest.fixture
def world() -> World:
    return World()


def test_a_stream_is_under_way_to_its_last_byte(world: World) -> None:
    bound: list[int] = []

    async def watched(model: str) -> AsyncIterator[str]:
        for _ in range(2):
            gc.collect()
            bound.append(sum(reference() is not None for reference in references))
            yield "data: x\n\n"

    references: list[Any] = []
    bindings = world.app.state.tempo_runtime.bindings
    bind = bindings.bind

    async def remembered(*arguments: Any, **keywords: Any) -> Any:
        binding = await bind(*arguments, **keywords)
        references.append(weakref.ref(binding))
        return binding

    bindings.bind = remembered
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "chunks", watched)
        assert world.chat("tempo", stream=True).status_code == 200
    gc.collect()
    assert (bound, [reference() for reference in references]) == ([1, 1], [None])


def test_unknown_names_get_vllms_own_answer_and_are_not_captured(world: World) -> None:
    response = world.chat("tempo-t1")
    assert response.status_code == 404
    assert response.json() == {"error": {"message": "no tempo-t1"}}
    assert "x-tempo-adapter" not in response.headers
    assert world.capture.seen == []


def test_the_worker_names_snapshots_and_is_not_captured(world: World) -> None:
    response = world.chat("tempo-t1", headers={"X-Tempo-Key": KEY})
    assert response.headers["x-tempo-adapter"] == "tempo-t1"
    assert world.chat("tempo", headers={"X-Tempo-Key": KEY}).status_code == 200
    assert world.capture.seen == []


def test_a_wrong_key_is_nobody(world: World) -> None:
    assert world.chat("tempo-t1", headers={"X-Tempo-Key": "tk_else"}).status_code == 404


def test_a_damaged_adapter_is_refused_with_the_remedy(world: World) -> None:
    response = world.chat("tempo-v9", headers={"X-Tempo-Key": KEY})
    assert response.status_code == 409
    assert response.json()["error"] == {
        "message": "tempo-v9: damaged; roll back to another version",
        "type": "conflict_error",
        "param": "model",
        "code": "corrupt_adapter",
    }


def test_models_lists_each_public_name_once(world: World) -> None:
    listing = world.request("GET", "/v1/models").json()
    assert [card["id"] for card in listing["data"]] == ["tiny", "tempo-v7"]
    assert listing["object"] == "list"


def test_validation_stays_fastapis(world: World) -> None:
    assert world.request("POST", "/v1/chat/completions", json={"model": 3}).status_code == 422


def test_a_vllm_without_the_route_is_refused() -> None:
    with pytest.raises(StartError, match="/v1/chat/completions"):
        endpoints.wrap(FastAPI())


def test_before_it_is_ready_it_says_so(world: World) -> None:
    errors.install(world.app)
    del world.app.state.tempo_runtime
    for response in (world.chat("tempo"), world.request("GET", "/v1/models")):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
