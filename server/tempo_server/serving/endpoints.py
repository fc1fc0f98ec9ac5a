"""Wrap vLLM's own endpoint functions: bind the request, let vLLM answer, say who answered, capture.

The stock function stays inside with everything it does (cancellation, streaming, keep-alive); only
`request.model` is set before it and a header added after it.
"""

import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from tempo_server.capture import question
from tempo_server.capture.capture import Capture, Shape, opts_out
from tempo_server.capture.spool import Spool
from tempo_server.context import prepared
from tempo_server.errors import StartError, error_response
from tempo_server.serving.bindings import Bindings
from tempo_server.serving.follower import Follower
from tempo_storage.adapters import version_of
from tempo_storage.errors import UnservableAdapterError

ADAPTER_HEADER = "x-tempo-adapter"
KEY_HEADER = "x-tempo-key"

Endpoint = Callable[..., Awaitable[Any]]

# path -> what is its question; all four are bound, and /v1/completions is counted as skipped
WRAPPED: dict[str, Shape] = {
    "/v1/chat/completions": question.chat,
    "/v1/completions": question.completions,
    "/v1/responses": question.responses,
    "/v1/messages": question.messages,
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the wrapped routes need, complete before HTTP opens; `app.state.tempo_runtime`."""

    bindings: Bindings
    capture: Capture
    spool: Spool
    follower: Follower
    is_known_key: Callable[[str], bool]


def wrap(app: FastAPI) -> None:
    """Replace the wrapped routes of vLLM's app by ours."""
    for path, shape in WRAPPED.items():
        core = _route(app, path, "POST")
        _replace(app, core, _bound(core.endpoint, shape))
    core = _route(app, "/v1/models", "GET")
    _replace(app, core, _listed(core.endpoint))


def _bound(inner: Endpoint, shape: Shape) -> Endpoint:
    @functools.wraps(inner)  # FastAPI reads the stock signature
    async def endpoint(*, request: Any, raw_request: Request) -> Any:
        runtime: Runtime = prepared("tempo_runtime", raw_request)
        key = raw_request.headers.get(KEY_HEADER)
        known_key = key is not None and runtime.is_known_key(key)
        try:
            binding = await runtime.bindings.bind(request.model, known_key=known_key)
        except UnservableAdapterError as error:
            return error_response(error, param="model")
        if binding is None:  # not ours: vLLM answers, its own 404 as a rule
            return await inner(request=request, raw_request=raw_request)
        request.model = binding.key
        opted_out = not known_key and await opts_out(raw_request)
        response = await inner(request=request, raw_request=raw_request)
        if response is None:  # the client is gone
            return None
        response.headers[ADAPTER_HEADER] = binding.name
        response.tempo_binding = binding  # under way until the response is let go, streamed or not
        if not known_key and response.status_code < 300:
            runtime.capture.keep(
                request,
                shape,
                headers=raw_request.headers,
                version=version_of(binding.name),
                opted_out=opted_out,
            )
        return response

    return endpoint


def _listed(inner: Endpoint) -> Endpoint:
    @functools.wraps(inner)
    async def endpoint(*, raw_request: Request) -> Response:
        stock: Response = await inner(raw_request=raw_request)
        listing = json.loads(bytes(stock.body))
        bindings = prepared("tempo_runtime", raw_request).bindings
        cards = {card["id"]: card for card in listing["data"] if bindings.is_listed(card["id"])}
        return JSONResponse(listing | {"data": list(cards.values())})

    return endpoint


def _route(app: FastAPI, path: str, method: str) -> APIRoute:
    for route in app.router.routes:
        if isinstance(route, APIRoute) and route.path == path and method in route.methods:
            return route
    raise StartError(f"this vLLM has no route {method} {path}; use the version in docker/cpu.lock")


def _replace(app: FastAPI, core: APIRoute, endpoint: Endpoint) -> None:
    routes = app.router.routes
    app.add_api_route(
        core.path,
        endpoint,
        methods=sorted(core.methods),
        dependencies=core.dependencies,
        responses=core.responses,
    )
    # In the stock route's place: routes are tried in order, and vLLM has over a hundred.
    routes[routes.index(core)] = routes.pop()
