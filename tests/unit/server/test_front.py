"""The front door on an app in this process: paths, keys, the start, and addresses."""

from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgi import send
from fastapi import FastAPI, Request

from tempo_server import assemble, errors
from tempo_server.admin import route
from tempo_server.front import Front, UserKeyMiddleware, is_loopback, public_address, users_keys
from tempo_server.serving.priority import PriorityMiddleware

KEYS = ["first", "second"]
GUARDED = [
    "/invocations",
    "/health/",
    "//health",
    "/health/../v1/models",
    "/healthz",
    "/version/x",
    "/metrics",
    "/metrics/",
    "/metricsx",
    "/tempo",
    "/tempox",
    "/",
    "/%2e/health/..",
]


def app_of(front: Front | None, *, root_path: str = "") -> FastAPI:
    app = FastAPI(root_path=root_path)

    @app.api_route("/{path:path}", methods=["GET", "OPTIONS", "POST"])
    def answer() -> str:
        return "behind"

    app.add_middleware(UserKeyMiddleware)
    if front is not None:
        app.state.tempo_front = front
    return app


def status(app: FastAPI, path: str, key: str | None = None, method: str = "GET") -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return send(app, method, path, headers=headers).status_code


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_every_other_path_needs_one_of_the_keys(path: str, method: str) -> None:
    app = app_of(Front.of(KEYS, public_metrics=False))
    assert status(app, path, method=method) == 401
    assert status(app, path, "third", method=method) == 401
    assert status(app, path, "", method=method) == 401
    assert [status(app, path, key, method=method) for key in KEYS] == [200, 200]


@pytest.mark.parametrize("root_path", ["", "/api"])
@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/tempo/v1/status"])
def test_health_and_the_admin_routes_need_no_users_key(path: str, root_path: str) -> None:
    app = app_of(Front.of(KEYS, public_metrics=False), root_path=root_path)
    assert status(app, path) == 200
    assert status(app, root_path + path) == 200
    assert status(app, f"{root_path}/other{path}") == 401


def test_the_metrics_are_open_by_a_setting() -> None:
    app = app_of(Front.of(KEYS, public_metrics=True))
    assert (status(app, "/metrics"), status(app, "/metricsx"), status(app, "/load")) == (
        *(200, 401),
        401,
    )


def test_without_a_key_everybody_passes() -> None:
    assert status(app_of(Front.of([], public_metrics=False)), "/invocations") == 200


def test_nobody_passes_before_the_plugin_has_started() -> None:
    assert status(app_of(None), "/invocations", "first") == 503


def test_the_refusal_is_an_error_that_openai_s_clients_read() -> None:
    reply = send(app_of(Front.of(KEYS, public_metrics=False)), "GET", "/invocations")
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert "Authorization: Bearer" in reply.json()["error"]["message"]


# Bodies ------------------------------------------------------------------------------------------


def app_with_bodies() -> FastAPI:
    """Return an app with all of the plugin's middleware and routes that read bodies, or do not."""
    app = FastAPI()

    @app.post("/parsed")
    def parsed(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.post("/raw")
    @app.post("/wrapped")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.post("/ping")
    @app.post("/metrics")
    def none() -> str:
        return "pong"

    errors.install(app)
    route.install(app)
    app.add_middleware(PriorityMiddleware, checked_paths=["/wrapped"], is_admin=lambda _: False)
    app.add_middleware(UserKeyMiddleware)
    app.state.tempo_front = Front.of([], public_metrics=True, max_body_bytes=1000)
    return app


def post(path: str, pieces: int) -> tuple[int, int]:
    """Send pieces of 100 bytes; return the status, and how many of them the app has taken."""
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(pieces):
            taken += 1
            yield b" " * 100

    headers = {"content-type": "application/json"}
    reply = send(app_with_bodies(), "POST", path, content=body(), headers=headers)
    if reply.status_code == 413:
        assert reply.json()["error"]["code"] == "too_large"
        assert "TEMPO_MAX_REQUEST_BYTES" in reply.json()["error"]["message"]
    return reply.status_code, taken


@pytest.mark.parametrize("path", ["/parsed", "/raw", "/wrapped", "/nothing"])
def test_a_body_beyond_the_limit_is_refused_before_the_rest_comes(path: str) -> None:
    assert post(path, 1_000) == (413, 11)
    assert post(path, 10)[0] != 413


@pytest.mark.parametrize("path", ["/ping", "/metrics"])
def test_no_body_is_read_where_nobody_needs_a_key(path: str) -> None:
    assert post(path, 1_000) == (200, 0)


# Addresses ---------------------------------------------------------------------------------------


def args(**fields: object) -> Namespace:
    return Namespace(**({"host": None, "uds": None, "api_key": None} | fields))


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "0.0.0.0"),
        ({"host": ""}, "0.0.0.0"),
        ({"host": "::"}, "::"),
        ({"host": "127.0.0.1"}, ""),
        ({"host": "localhost"}, ""),
        ({"uds": "/run/x.sock"}, ""),
    ],
)
def test_an_own_vllm_serve_without_a_key_is_warned_of_if_others_reach_it(
    fields: dict[str, object], address: str
) -> None:
    assert public_address(args(**fields)) == address
    warnings = assemble.check_exposure(args(**fields), [])
    assert [f"--host is {address}, " in warning for warning in warnings] == [True] * bool(address)
    assert assemble.check_exposure(args(**fields), ["key"]) == []


def test_the_users_keys_are_those_that_vllm_takes() -> None:
    assert users_keys(args(api_key=["a", "", "b"]), "variable") == ["a", "b"]
    assert users_keys(args(), "variable") == ["variable"]
    assert (users_keys(args(), None), users_keys(args(api_key=[""]), "variable")) == ([], [])


@pytest.mark.parametrize("host", ["", "::ffff:10.0.0.1", "no.such.name.invalid", "\0", "a" * 300])
def test_a_name_that_is_not_known_to_be_local_is_not(host: str) -> None:
    assert not is_loopback(host)
