"""Route classes that give each admin route a request id, a key check, a size limit and JSON errors.

We do not use app-wide middleware, because it would change vLLM's routes too. The key is checked
before a byte of an upload is read.
"""

import asyncio
import errno
import logging
import re
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException  # FastAPI's own derives from it
from starlette.routing import Match, Route
from starlette.types import Message, Receive

from tempo_server.admin.schemas import ErrorReply, Page, Resource, Text
from tempo_server.context import Context, from_state
from tempo_server.errors import SlowRequestError, error_response, json_error
from tempo_server.keys import Scope, bearer, check_scope, key_with_scope
from tempo_storage.errors import InvalidInputError, NotFoundError, TempoError, TooLargeError
from tempo_storage.failures import trace
from tempo_storage.labeled.file import LabeledFileError
from tempo_storage.ledger import audit

logger = logging.getLogger("vllm.tempo.admin")

MAX_BODY_BYTES = 33 * 1024 * 1024  # a file of 32 MiB and its envelope
# A body has so many seconds, and one more for each of these bytes that have arrived.
BODY_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 32 * 1024
REQUEST_ID = re.compile(r"[\w-]{1,64}")
SCOPE = "x-scope"  # the field of a route in the OpenAPI document
# pydantic's names of errors, and OpenAI's
ERROR_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_parameter",
    "less_than_equal": "integer_above_max_value",
    "greater_than_equal": "integer_below_min_value",
}
MAX_SHOWN_CHARACTERS = 100
# The errors that a route may answer, for the OpenAPI document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in (
        (400, "The request is malformed."),
        (401, "The key is missing, unknown or expired."),
        (403, "The key lacks the scope."),
        (404, "There is no such thing; list the things to see their ids."),
        (408, "The body came too slowly."),
        (409, "The state does not allow it now; read the state again."),
        (413, "The request is larger than 33 MiB."),
        (422, "The gate rejected the version."),
        (429, "Too many requests wait for a verifier."),
        (500, "The server failed; its log has more."),
        (503, "The server starts, or its database or verifiers do not answer."),
        (507, "The server's disk is full."),
    )
}
PUBLIC_ERRORS: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (500, 503)}
# With `default` FastAPI does not list the 422 of its own, which we never send.
COMMON_ERRORS: dict[int | str, dict[str, Any]] = {
    status: ERRORS[status] for status in (400, 401, 403, 500, 503)
} | {"default": {"model": ErrorReply, "description": "Another error."}}
# Beginnings of pydantic's names of errors about numbers, choices and names: no text of a question.
SHOWN_VALUES = ("int_", "float_", "bool_", "less_", "greater_", "literal_")
SHOWN_NAMES = ("string_pattern_",)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Item = TypeVar("Item", bound=Resource)


async def _context(request: Request) -> Context:
    context: Context = from_state(request, "tempo")
    return context


CurrentContext = Annotated[Context, Depends(_context)]
"""The context of the running server, as an argument of an endpoint."""


async def _caller(request: Request) -> str:
    return bearer(request.headers.get("authorization"))


CallersKey = Annotated[str, Depends(_caller)]
"""The key of the request, for an endpoint that may need another scope, too."""


def needs(scope: Scope, *statuses: int) -> dict[str, Any]:
    """Return the arguments of a route that needs a scope and may answer these errors, too.

    Each route with a key may answer those in COMMON_ERRORS.
    """
    return {"openapi_extra": {SCOPE: scope}, "responses": {n: ERRORS[n] for n in statuses}}


class Paging(BaseModel):
    """The page of a list that a request asks for."""

    after: Text | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    def cut(self, items: Sequence[Item]) -> Page[Item]:
        """Return the page of items that were read up to one beyond its end."""
        return Page(data=list(items[: self.limit]), has_more=len(items) > self.limit)

    def page(self, items: Sequence[Item]) -> Page[Item]:
        """Return the `limit` items that follow the one whose id is `after`."""
        ids = [item.id for item in items]
        if self.after is not None and self.after not in ids:
            raise NotFoundError(f"nothing has the id {self.after!r}; list without `after`")
        start = 0 if self.after is None else ids.index(self.after) + 1
        end = start + self.limit
        return Page(data=list(items[start:end]), has_more=end < len(items))


class FilePaging(Paging):
    """The page of the list of files; the limits are those of OpenAI's API."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Text | None = None


PageQuery = Annotated[Paging, Query()]
FilePageQuery = Annotated[FilePaging, Query()]


def install(app: FastAPI) -> None:
    """Answer unknown paths and methods in OpenAI's form of error."""
    app.add_exception_handler(HTTPException, _routing_error)


async def _routing_error(request: Request, error: Exception) -> Response:
    """Answer an error of the app's router; an error of a route gets FastAPI's own answer."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, TempoError):  # FastAPI wraps what is raised while it reads
        return error_response(error.__cause__)
    path = request.url.path
    methods = ", ".join(sorted(_methods(request)))
    if error.status_code != (405 if methods else 404):
        return await http_exception_handler(request, error)
    if methods:
        message = f"{path} does not take {request.method}; send {methods}"
        response = json_error(405, message, "method_not_allowed")
        response.headers["allow"] = methods
    else:
        message = f"there is no route {request.method} {path}; /openapi.json lists the routes"
        response = json_error(404, message, "not_found")
    response.headers["x-request-id"] = _request_id(request)
    return response


def _methods(request: Request) -> set[str]:
    """Return the methods that the app takes on the path of a request."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return {method for route in matching for method in route.methods or ()}


class PublicRoute(APIRoute):
    """A route of the admin API that needs no key."""

    async def authorize(self, context: Context, request: Request) -> None:
        """Let every request through."""

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler with ours around it."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            request_id = _request_id(request)
            try:
                await self.authorize(await _context(request), request)
                response = await handle(Request(request.scope, _bounded(request.receive)))
            except Exception as error:
                response = _error_response(error, request_id)
            response.headers["x-request-id"] = request_id
            response.headers["x-content-type-options"] = "nosniff"
            return response

        return answer


class KeyRoute(PublicRoute):
    """A route of the admin API that needs a key with its scope."""

    @property
    def scope(self) -> str:
        """The scope that a key needs; raise KeyError for a route that names none."""
        return str((self.openapi_extra or {})[SCOPE])

    def get_route_handler(self) -> Handler:
        """Return the handler; raise KeyError, when the route is made, if it names no scope."""
        assert self.scope
        return super().get_route_handler()

    async def authorize(self, context: Context, request: Request) -> None:
        """Raise AuthenticationError or InsufficientScopeError unless the key has the scope.

        The holder of the key is the actor of the changes that the route makes. Raises
        RequestValidationError for a query parameter that the route would not honour, and
        InvalidInputError for an id that no row can have.
        """
        key = bearer(request.headers.get("authorization"))
        known = key_with_scope(context, key, self.scope)
        if known is None:  # another process may have added it
            known = await run_in_threadpool(check_scope, context, key, self.scope)
        address = request.client.host if request.client else "unknown"
        audit.act_as(audit.Actor(f"key {known.id} ({known.name})", address))
        self._check_parameters(request)

    def _check_parameters(self, request: Request) -> None:
        for name, value in request.path_params.items():
            if "\x00" in value:  # PostgreSQL takes no such text
                raise InvalidInputError(f"{name}: an id has no NUL character; list the ids")
        names: set[str] = set()
        for field in self.dependant.query_params:
            model_fields = getattr(field.field_info.annotation, "model_fields", None)
            names |= {field.alias} if model_fields is None else model_fields.keys()
        unknown = [name for name in request.query_params if name not in names]
        if unknown:
            error = {"type": "extra_forbidden", "loc": ("query", unknown[0])}
            raise RequestValidationError([error])


def _bounded(receive: Receive) -> Receive:
    """Return a function that reads a body; it raises TooLargeError or SlowRequestError."""
    received_bytes = 0
    start = time.monotonic()

    async def bounded() -> Message:
        nonlocal received_bytes
        seconds = BODY_SECONDS + received_bytes / MIN_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(start + seconds - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise SlowRequestError(
                f"{received_bytes} bytes of the request came in {seconds:.0f} s; send it faster"
            ) from None
        received_bytes += len(message.get("body", b""))
        if received_bytes > MAX_BODY_BYTES:
            raise TooLargeError("the request is larger than 33 MiB; split the file")
        return message

    return bounded


def _request_id(request: Request) -> str:
    request_id = request.headers.get("x-request-id", "")
    return request_id if REQUEST_ID.fullmatch(request_id) else f"req_{uuid.uuid4().hex}"


def _error_response(error: Exception, request_id: str) -> JSONResponse:
    if isinstance(error, HTTPException) and isinstance(error.__cause__, TempoError):
        error = error.__cause__  # FastAPI wraps an exception that is raised while it reads a body
    match error:
        case RequestValidationError():
            return _invalid_request(error)
        case LabeledFileError():
            return _line_errors(error)
        case HTTPException():
            return json_error(error.status_code, str(error.detail), "invalid_request")
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return json_error(507, "the server's disk is full; free space", "insufficient_storage")
    response = error_response(error)
    if response.status_code != 500:
        return response
    logger.error("request %s failed: %s", request_id, trace(error))
    message = f"the server failed; look for {request_id} in its log"
    return json_error(500, message, "internal_error")


def _invalid_request(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return json_error(400, "the body is not valid JSON; send an object", "invalid_json")
    field = ".".join(str(part) for part in first["loc"][1:]) or None
    code = ERROR_CODES.get(first["type"], "invalid_value")
    if code == "unknown_parameter":
        message = f"{field}: this server does not know the parameter; leave it out"
    else:
        message = f"{field or 'body'}: {first['msg']}{_shown(first)}"
    return json_error(400, message, code, param=field)


def _shown(error: Any) -> str:
    """Return the value at fault, for the end of a message; "" where it may be a question's text."""
    in_body = error["loc"][0] == "body"
    if not error["type"].startswith(SHOWN_VALUES if in_body else (*SHOWN_VALUES, *SHOWN_NAMES)):
        return ""
    return f", not {error['input']!r}"[:MAX_SHOWN_CHARACTERS]


def _line_errors(error: LabeledFileError) -> JSONResponse:
    code = "line_errors" if error.errors else "too_few_examples"
    errors = sorted(error.errors, key=lambda line_error: line_error.line)
    # All of them: a file has at most 20,000 lines, and the errors of a line are short.
    listed = [asdict(line_error) for line_error in errors]
    details = {"line_errors": listed, "errors_total": len(errors)}
    return json_error(400, str(error), code, param="file", **details)
