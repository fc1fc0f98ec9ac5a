"""What every admin route has in common: a request id, a key, a bounded body, errors as JSON.

A route class, not app-wide handlers and middleware: vLLM's own are app-wide, and the key must be
known to be good before a byte of an upload is read.
"""

import errno
import logging
import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException  # FastAPI's own derives from it
from starlette.types import Message, Receive

from tempo_server.admin.schemas import Page, Resource
from tempo_server.context import Context, prepared
from tempo_server.errors import (
    AuthenticationError,
    InsufficientScopeError,
    error_response,
    refusal,
)
from tempo_server.keys import bearer, has_scope, is_known_key, read_keys
from tempo_storage.errors import NotFoundError, TempoError, TooLargeError
from tempo_storage.labeled.file import LabeledFileError

logger = logging.getLogger("vllm.tempo.admin")

MAX_BODY_BYTES = 33 * 1024 * 1024  # a file of 32 MiB and its envelope
REQUEST_ID = re.compile(r"[\w-]{1,64}")
LISTED_LINES = 200
PROMOTE = {"x-scope": "promote"}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Listed = TypeVar("Listed", bound=Resource)


async def _context(request: Request) -> Context:
    context: Context = prepared("tempo", request)
    return context


Current = Annotated[Context, Depends(_context)]
"""The context of the running server, as an argument of an endpoint."""


class Paging(BaseModel):
    """Which part of a list is asked for."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)

    def page(self, items: Sequence[Listed]) -> Page[Listed]:
        """Return the `limit` items that follow the one whose id is `after`."""
        ids = [item.id for item in items]
        if self.after is not None and self.after not in ids:
            raise NotFoundError(f"nothing has the id {self.after!r}; list without `after`")
        start = 0 if self.after is None else ids.index(self.after) + 1
        end = start + self.limit
        return Page(data=list(items[start:end]), has_more=end < len(items))


Part = Annotated[Paging, Query()]


class Open(APIRoute):
    """A route of the admin API that needs no key."""

    needs_key = False

    @property
    def scope(self) -> str:
        """The scope that a key must have: what the route declares as `x-scope`, else `train`."""
        default = "" if self.methods <= {"GET"} else "train"
        return str((self.openapi_extra or {}).get("x-scope", default))

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler with ours around it."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            request_id = _request_id(request)
            try:
                context = await _context(request)
                if self.needs_key:
                    await _authenticate(context, request, self.scope)
                response = await handle(Request(request.scope, _bounded(request.receive)))
            except Exception as error:
                response = _refused(error, request_id)
            response.headers["x-request-id"] = request_id
            response.headers["x-content-type-options"] = "nosniff"
            return response

        return answer


class Keyed(Open):
    """A route of the admin API that needs a key: any to read, else one with its scope."""

    needs_key = True


async def _authenticate(context: Context, request: Request, scope: str) -> None:
    key = bearer(request.headers.get("authorization"))
    if has_scope(context, key, scope):
        return
    await run_in_threadpool(read_keys, context)
    if has_scope(context, key, scope):
        return
    if not is_known_key(context, key):
        raise AuthenticationError(
            "the key is not known here; send the one in the server's admin.key file"
        )
    raise InsufficientScopeError(
        f"the key lacks the scope {scope!r}; send one that has it, as that in the server's "
        "admin.key file does"
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


def _refused(error: Exception, request_id: str) -> JSONResponse:
    if isinstance(error, HTTPException) and isinstance(error.__cause__, TempoError):
        error = error.__cause__  # FastAPI makes its own of what is raised while it reads a body
    match error:
        case RequestValidationError():
            return _malformed(error)
        case LabeledFileError():
            return _line_errors(error)
        case HTTPException():
            return refusal(error.status_code, str(error.detail), "invalid_request")
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return refusal(507, "the server's disk is full; free space", "insufficient_storage")
    response = error_response(error)
    if response.status_code != 500:
        return response
    logger.error("request %s failed", request_id, exc_info=error)
    message = f"the server failed; its log has the cause under {request_id}"
    return refusal(500, message, "internal_error")


def _malformed(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return refusal(400, "the body is not valid JSON; send an object", "invalid_json")
    where = ".".join(str(part) for part in first["loc"][1:]) or None
    code = "missing_field" if first["type"] == "missing" else "invalid_value"
    return refusal(400, f"{where or 'body'}: {first['msg']}", code, param=where)


def _line_errors(error: LabeledFileError) -> JSONResponse:
    code = "line_errors" if error.errors else "too_few_examples"
    ordered = sorted(error.errors, key=lambda e: e.line)
    listed = [asdict(line) for line in ordered[:LISTED_LINES]]
    more = {"line_errors": listed, "errors_total": len(ordered)}
    return refusal(400, str(error), code, param="file", **more)
