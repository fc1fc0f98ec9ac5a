"""What every admin route has in common: a request id, a key, a bounded body, errors as JSON.

A route class, not app-wide handlers and middleware: vLLM's own are app-wide, and the key must be
known to be good before a byte of an upload is read.
"""

import errno
import logging
import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException  # FastAPI's own derives from it
from starlette.types import Message, Receive

from tempo_server.auth import bearer, is_known_key, read_keys
from tempo_server.context import Context
from tempo_server.errors import AuthenticationError, TooLargeError, error_body, error_response
from tempo_server.labeled import LabeledFileError
from tempo_server.schemas import Page
from tempo_storage.errors import NotFoundError, TempoError
from tempo_storage.models import Base

logger = logging.getLogger("vllm.tempo.admin")

MAX_BODY_BYTES = 33 * 1024 * 1024  # a file of 32 MiB and its envelope
REQUEST_ID = re.compile(r"[\w-]{1,64}")
SCOPE_KEY = "tempo.context"
LISTED_LINES = 200

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Row = TypeVar("Row", bound=Base)
Item = TypeVar("Item")


async def _context(request: Request) -> Context:
    context: Context = request.scope[SCOPE_KEY]
    return context


Current = Annotated[Context, Depends(_context)]
"""The context of the running server, as an argument of an endpoint."""

Limit = Annotated[int, Query(ge=1, le=100)]


def guarded(context_of: Callable[[], Context], *, needs_key: bool = True) -> type[APIRoute]:
    """Return the route class of the admin API."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                request_id = _request_id(request)
                try:
                    request.scope[SCOPE_KEY] = context = context_of()
                    if needs_key:
                        await _authenticate(context, request)
                    response = await handle(Request(request.scope, _bounded(request.receive)))
                except Exception as error:
                    response = _refusal(error, request_id)
                response.headers["x-request-id"] = request_id
                response.headers["x-content-type-options"] = "nosniff"
                return response

            return answer

    return Guarded


def page(
    rows: Sequence[Row],
    *,
    after: str | None,
    limit: int,
    key: Callable[[Row], str],
    show: Callable[[Row], Item],
) -> Page[Item]:
    """Return the `limit` rows that follow the one whose key is `after`."""
    keys = [key(row) for row in rows]
    if after is not None and after not in keys:
        raise NotFoundError(f"nothing has the id {after!r}; list without `after`")
    start = keys.index(after) + 1 if after is not None else 0
    chosen = rows[start : start + limit]
    return Page(data=[show(row) for row in chosen], has_more=start + limit < len(rows))


async def _authenticate(context: Context, request: Request) -> None:
    key = bearer(request.headers.get("authorization"))
    if is_known_key(context, key):
        return
    await run_in_threadpool(read_keys, context)
    if not is_known_key(context, key):
        raise AuthenticationError(
            "the key is not known here; send the one in the server's admin.key file"
        )


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise TooLargeError("the request is larger than 33 MiB; split the file")
        return message

    return counted


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _refusal(error: Exception, request_id: str) -> JSONResponse:
    if isinstance(error, HTTPException) and isinstance(error.__cause__, TempoError):
        error = error.__cause__  # FastAPI makes its own of what is raised while it reads a body
    response = _error_response(error, request_id)
    if response.status_code in (409, 507):  # OpenAI's client would try those again, in vain
        response.headers["x-should-retry"] = "false"
    return response


def _error_response(error: Exception, request_id: str) -> JSONResponse:
    match error:
        case RequestValidationError():
            return _malformed(error)
        case LabeledFileError():
            return _line_errors(error)
        case HTTPException():
            return _plain(error.status_code, str(error.detail), "invalid_request")
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _plain(507, "the server's disk is full; free space", "insufficient_storage")
    response = error_response(error)
    if response.status_code != 500:
        return response
    logger.error("request %s failed", request_id, exc_info=error)
    message = f"the server failed; its log has the cause under {request_id}"
    return _plain(500, message, "internal_error")


def _plain(status: int, message: str, code: str, *, param: str | None = None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse(error_body(message, kind, code=code, param=param), status)


def _malformed(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _plain(400, "the body is not valid JSON; send an object", "invalid_json")
    where = ".".join(str(part) for part in first["loc"][1:]) or None
    code = "missing_field" if first["type"] == "missing" else "invalid_value"
    return _plain(400, f"{where or 'body'}: {first['msg']}", code, param=where)


def _line_errors(error: LabeledFileError) -> JSONResponse:
    code = "line_errors" if error.errors else "too_few_examples"
    body = error_body(str(error), "invalid_request_error", code=code, param="file")
    ordered = sorted(error.errors, key=lambda e: e.line)
    body["error"]["line_errors"] = [e.as_json() for e in ordered[:LISTED_LINES]]
    body["error"]["errors_total"] = len(ordered)
    return JSONResponse(body, 400)
