"""Wrap vLLM's own endpoints: bind the request, let vLLM answer, name the adapter, capture.

vLLM's function stays inside with all that it does (cancellation, streaming, keep-alive). The plugin
sets `request.model` before it and adds a header after it.
"""

import functools
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from tempo_server.capture import question
from tempo_server.capture.capture import Capture, ReadQuestion
from tempo_server.context import from_state
from tempo_server.errors import StartError, error_response, json_error
from tempo_server.serving import priority
from tempo_server.serving.bindings import Bindings
from tempo_storage.errors import UnservableAdapterError

ADAPTER_HEADER = "x-tempo-adapter"
KEY_HEADER = "x-tempo-key"
REQUEST_STACK = "tempo_request_stack"
# The errors that the plugin adds to vLLM's own, for the OpenAPI document.
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is malformed."},
    409: {"description": "This server cannot serve the version that the request names."},
    503: {"description": "The server is starting."},
}
MODEL_ERRORS: dict[int | str, dict[str, Any]] = {
    503: ERRORS[503],
    404: {"description": "There is no such model."},
}

Endpoint = Callable[..., Awaitable[Any]]

WRAPPED: dict[str, ReadQuestion] = {
    "/v1/chat/completions": question.from_chat,
    "/v1/completions": question.from_completion,
    "/v1/responses": question.from_response,
    "/v1/messages": question.from_anthropic,
}


@dataclass(frozen=True, slots=True)
class EndpointContext:
    """The parts that the wrapped endpoints use.

    The plugin stores it in `app.state.tempo_endpoints` when the server is ready.
    """

    bindings: Bindings
    capture: Capture
    is_admin_key: Callable[[str], bool]


class BoundRoute(APIRoute):
    """A route whose request stays bound until its answer is sent, fails, or is broken off.

    The endpoint returns before a streamed body is sent; `handle` returns after it. The endpoint
    enters its binding into the stack, and the end of `handle` releases it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        async with AsyncExitStack() as stack:
            scope[REQUEST_STACK] = stack
            await super().handle(scope, receive, send)


def wrap(app: FastAPI) -> None:
    """Replace vLLM's routes by wrapped ones; raise StartError if this vLLM lacks one.

    On vLLM's other routes only the priority is checked.
    """
    for path, read_question in WRAPPED.items():
        stock = _route(app, path, "POST")
        _replace(app, stock, _bound(stock.endpoint, read_question))
    stock = _route(app, "/v1/models", "GET")
    listing = _listing(stock.endpoint)
    _replace(app, stock, listing)
    path = "/v1/models/{model:path}"
    app.add_api_route(path, _model(listing), methods=["GET"], responses=MODEL_ERRORS)
    app.add_middleware(priority.PriorityMiddleware, checked_paths=WRAPPED, is_admin=_is_admin)


def _bound(inner: Endpoint, read_question: ReadQuestion) -> Endpoint:
    """Return vLLM's endpoint with binding before it and capture after it."""

    @functools.wraps(inner)  # FastAPI reads vLLM's signature
    async def endpoint(*, request: Any, raw_request: Request) -> Any:
        context: EndpointContext = from_state(raw_request, "tempo_endpoints")
        is_admin = _is_admin(raw_request)
        refusal = priority.refusal(raw_request.headers, getattr(request, "priority", 0))
        if refusal is not None and not is_admin:
            return refusal
        # Another plugin may have put a route of its own around this endpoint. Then the binding ends
        # when Python deletes the scope.
        stack = raw_request.scope.setdefault(REQUEST_STACK, AsyncExitStack())
        bound = context.bindings.bind(request.model, is_admin=is_admin)
        try:
            binding = await stack.enter_async_context(bound)
        except UnservableAdapterError as error:
            return error_response(error, param="model")
        if binding is None:  # the name is not ours: vLLM answers (usually 404), nothing is captured
            return await inner(request=request, raw_request=raw_request)
        request.model = binding.key
        opted_out = not is_admin and await context.capture.is_opted_out(raw_request)
        response = await inner(request=request, raw_request=raw_request)
        if response is None:  # the client is gone
            return None
        response.headers[ADAPTER_HEADER] = binding.name
        if not is_admin and response.status_code < 300:
            context.capture.keep(
                request,
                read_question,
                headers=raw_request.headers,
                is_opted_out=opted_out,
                peer=raw_request.client.host if raw_request.client else "",
            )
        return response

    return endpoint


def _is_admin(connection: HTTPConnection) -> bool:
    """Tell whether a request has the worker's key."""
    key = connection.headers.get(KEY_HEADER)
    if key is None:
        return False
    context: EndpointContext = from_state(connection, "tempo_endpoints")
    return context.is_admin_key(key)


def _listing(inner: Endpoint) -> Endpoint:
    """Return vLLM's list of models without the names that no user may use.

    The base comes first. All names of ours have it as their parent.
    """

    @functools.wraps(inner)
    async def endpoint(*, raw_request: Request) -> Response:
        stock: Response = await inner(raw_request=raw_request)
        listing = json.loads(bytes(stock.body))
        bindings = from_state(raw_request, "tempo_endpoints").bindings
        cards = {card["id"]: card for card in listing["data"] if bindings.is_listed(card["id"])}
        for card in cards.values():
            card["parent"] = card.get("parent") or bindings.parent(card["id"])
        data = sorted(cards.values(), key=lambda card: card["parent"] is not None)
        return JSONResponse(listing | {"data": data})

    return endpoint


def _model(listing: Endpoint) -> Endpoint:
    """Return an endpoint that shows one model of the list; vLLM has none."""

    async def endpoint(*, model: str, raw_request: Request) -> Response:
        response: Response = await listing(raw_request=raw_request)
        if not model:  # /v1/models/
            return response
        for card in json.loads(bytes(response.body))["data"]:
            if card["id"] == model:
                return JSONResponse(card)
        message = f"the model {model!r} does not exist; GET /v1/models lists the models"
        return json_error(404, message, "model_not_found", param="model")

    return endpoint


def _route(app: FastAPI, path: str, method: str) -> APIRoute:
    for route in app.router.routes:
        if isinstance(route, APIRoute) and route.path == path and method in route.methods:
            return route
    raise StartError(f"this vLLM has no route {method} {path}; use the version in docker/cpu.lock")


def _replace(app: FastAPI, stock: APIRoute, endpoint: Endpoint) -> None:
    routes = app.router.routes
    app.router.add_api_route(
        stock.path,
        endpoint,
        methods=sorted(stock.methods),
        dependencies=stock.dependencies,
        responses=ERRORS | stock.responses,
        route_class_override=BoundRoute,
    )
    # At vLLM's position: routes are tried in order, and vLLM has over a hundred.
    routes[routes.index(stock)] = routes.pop()
