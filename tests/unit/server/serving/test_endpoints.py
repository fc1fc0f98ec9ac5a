"""The wrapped endpoints, on an app that has the same routes as vLLM's."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi import send
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from tempo_server import errors
from tempo_server.errors import StartError
from tempo_server.serving import endpoints
from tempo_server.serving.bindings import Binding
from tempo_server.serving.endpoints import EndpointContext
from tempo_storage.errors import CorruptAdapterError

KEY = "tk_worker"


class Body(BaseModel):
    """A request to any of the wrapped routes."""

    model: str | None = None
    stream: bool = False
    priority: int = 0


class FakeBindings:
    """Binds `tempo`, and `tempo-t1` for an admin; refuses `tempo-v9` as damaged."""

    @asynccontextmanager
    async def bind(self, model: str | None, *, is_admin: bool) -> AsyncIterator[Binding | None]:
        if model == "tempo-v9":
            raise CorruptAdapterError("tempo-v9: damaged; roll back to another version")
        if model == "tempo":
            yield Binding(key="tempo-v7~secret", name="tempo-v7")
        else:
            yield Binding(key="tempo-t1~secret", name="tempo-t1") if is_admin else None

    def is_listed(self, model: str) -> bool:
        return not model.startswith("tempo-t")

    def parent(self, model: str) -> str | None:
        return "tiny" if model.startswith("tempo") else None


class FakeCapture:
    """Records the model of each request that it should keep."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def is_opted_out(self, raw_request: Any) -> bool:
        return False

    def keep(self, request: Any, read_question: Any, **_: Any) -> None:
        self.models.append(request.model)


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
        names = ["tempo", "tempo-v7", "tiny", "tempo-v7", "tempo-t1", "tempo-v7"]
        cards = [{"id": name, "parent": None} for name in names]
        cards.append({"id": "org/own", "parent": "tiny"})
        return JSONResponse({"object": "list", "data": cards})

    for path in endpoints.WRAPPED:
        app.add_api_route(path, chat, methods=["POST"])
    app.add_api_route("/v1/models", models, methods=["GET"])
    return app


async def chunks(model: str) -> AsyncIterator[str]:
    for i in range(3):
        yield f"data: {json.dumps({'model': model, 'i': i})}\n\n"


class WrappedApp:
    """An app whose routes are wrapped, with fake bindings and a fake capture."""

    def __init__(self) -> None:
        self.capture: Any = FakeCapture()
        bindings: Any = FakeBindings()
        self.app = stock_app()
        endpoints.wrap(self.app)
        self.app.state.tempo_endpoints = EndpointContext(
            bindings=bindings, capture=self.capture, is_admin_key=lambda key: key == KEY
        )

    def get(self, path: str) -> httpx.Response:
        return send(self.app, "GET", path)

    def chat(
        self, model: str | None, *, stream: bool = False, priority: int = 0, **options: Any
    ) -> httpx.Response:
        body = {"model": model, "stream": stream, "priority": priority}
        return send(self.app, "POST", "/v1/chat/completions", json=body, **options)


@pytest.fixture
def app() -> WrappedApp:
    return WrappedApp()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_names_its_adapter_and_is_captured(app: WrappedApp, stream: bool) -> None:
    response = app.chat("tempo", stream=stream)
    assert response.headers["x-tempo-adapter"] == "tempo-v7"
    assert response.text.count("tempo-v7~secret") == (3 if stream else 1)
    assert app.capture.models == ["tempo-v7~secret"]


def test_an_unknown_name_gets_vllm_s_own_answer_and_is_not_captured(app: WrappedApp) -> None:
    response = app.chat("tempo-t1")
    assert response.status_code == 404
    assert response.json() == {"error": {"message": "no tempo-t1"}}
    assert "x-tempo-adapter" not in response.headers
    assert app.capture.models == []


def test_an_admin_can_name_trials_and_is_not_captured(app: WrappedApp) -> None:
    response = app.chat("tempo-t1", headers={"X-Tempo-Key": KEY})
    assert response.headers["x-tempo-adapter"] == "tempo-t1"
    assert app.chat("tempo", headers={"X-Tempo-Key": KEY}).status_code == 200
    assert app.capture.models == []


def test_a_wrong_key_makes_nobody_an_admin(app: WrappedApp) -> None:
    assert app.chat("tempo-t1", headers={"X-Tempo-Key": "tk_else"}).status_code == 404


@pytest.mark.parametrize("priority", [-1, -(2**62), -(10**400), 2**63])
@pytest.mark.parametrize("in_header", [False, True])
@pytest.mark.parametrize("model", ["tempo", "org/own"])
def test_no_user_goes_before_others_by_a_priority(
    app: WrappedApp, priority: int, in_header: bool, model: str
) -> None:
    header = {"X-Vllm-Priority": str(priority)}
    options: dict[str, Any] = {"headers": header} if in_header else {"priority": priority}
    error = app.chat(model, **options).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "priority")
    assert app.capture.models == []


def test_a_user_may_step_back_and_the_worker_may_have_any_priority(app: WrappedApp) -> None:
    assert app.chat("tempo", priority=2**62).status_code == 200
    assert app.chat("tempo", headers={"X-Vllm-Priority": "none"}).status_code == 200
    key = {"X-Tempo-Key": KEY}
    assert app.chat("tempo", priority=-5, headers=key).status_code == 200


def test_the_statuses_of_the_plugin_are_in_the_openapi_document(app: WrappedApp) -> None:
    paths = app.app.openapi()["paths"]
    for path in endpoints.WRAPPED:
        assert paths[path]["post"]["responses"].keys() >= {"400", "409", "503"}
    assert paths["/v1/models/{model}"]["get"]["responses"].keys() >= {"404", "503"}


def test_a_damaged_adapter_is_refused_with_the_remedy(app: WrappedApp) -> None:
    response = app.chat("tempo-v9", headers={"X-Tempo-Key": KEY})
    assert response.status_code == 409
    assert response.json()["error"] == {
        "message": "tempo-v9: damaged; roll back to another version",
        "type": "conflict_error",
        "param": "model",
        "code": "corrupt_adapter",
    }


def test_the_list_of_models_has_each_public_name_once(app: WrappedApp) -> None:
    listing = app.get("/v1/models").json()
    names = [card["id"] for card in listing["data"]]
    assert sorted(names) == ["org/own", "tempo", "tempo-v7", "tiny"]
    assert listing["object"] == "list"


def test_the_list_of_models_begins_with_the_base_which_is_the_parent_of_our_names(
    app: WrappedApp,
) -> None:
    cards = app.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [
        ("tiny", None),
        ("tempo", "tiny"),
        ("tempo-v7", "tiny"),
        ("org/own", "tiny"),
    ]


def test_a_model_of_the_list_is_shown_by_its_name(app: WrappedApp) -> None:
    for card in app.get("/v1/models").json()["data"]:
        assert app.get(f"/v1/models/{card['id']}").json() == card
    assert app.get("/v1/models/").json() == app.get("/v1/models").json()
    for name in ("tempo-t1", "else"):
        response = app.get(f"/v1/models/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_fastapi_still_validates_the_body(app: WrappedApp) -> None:
    response = send(app.app, "POST", "/v1/chat/completions", json={"model": 3})
    assert response.status_code == 422


def test_a_vllm_without_one_of_the_routes_is_refused() -> None:
    with pytest.raises(StartError, match="/v1/chat/completions"):
        endpoints.wrap(FastAPI())


def test_while_the_server_starts_its_routes_answer_503(app: WrappedApp) -> None:
    errors.install(app.app)
    del app.app.state.tempo_endpoints
    for response in (app.chat("tempo"), app.get("/v1/models"), app.get("/v1/models/tempo")):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
