"""Refuse a priority by which a user's request would go before those of others.

vLLM serves the lowest number first. It takes one on more routes than the plugin wraps, for example
on /invocations.
"""

import json
from collections.abc import Callable, Collection
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tempo_server.errors import error_response, json_error
from tempo_server.front import METRICS_PATH, OPEN_PATHS, OWN_PATHS, path_of
from tempo_storage.errors import TooLargeError

# They answer without a key, so nobody may let us read a body there.
WITHOUT_BODY = (*OPEN_PATHS, METRICS_PATH)
HEADER = "x-vllm-priority"  # some routes prefer it to the field `priority`, others ignore it
MAX_PRIORITY = 2**63 - 1
INTEGER = TypeAdapter(int)  # reads the field as vLLM does


def refusal(headers: Headers, field: object) -> JSONResponse | None:
    """Return the answer to a request that would go before others; None for another request.

    `field` is the request's field `priority`. vLLM itself refuses or ignores what is no number.
    """
    priorities = []
    with suppress(KeyError, ValueError):
        priorities.append(int(headers[HEADER]))
    with suppress(ValidationError):
        priorities.append(INTEGER.validate_python(field))
    if all(0 <= priority <= MAX_PRIORITY for priority in priorities):
        return None
    message = "priority: send a number from 0, which goes first, to 2**63 - 1"
    return json_error(400, message, "invalid_value", param="priority")


class PriorityMiddleware:
    """Refuses such a priority on each route of vLLM except those whose endpoints check it."""

    def __init__(
        self,
        app: ASGIApp,
        checked_paths: Collection[str],
        is_admin: Callable[[HTTPConnection], bool],
    ) -> None:
        self.app = app
        self.checked_paths = checked_paths
        self.is_admin = is_admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST" or self._is_checked(scope):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        except TooLargeError as error:
            await error_response(error)(scope, receive, send)
            return
        answer = refusal(request.headers, _field(body))
        if answer is None or self.is_admin(request):
            await self.app(scope, _replayed(body, receive), send)
        else:
            await answer(scope, receive, send)

    def _is_checked(self, scope: Scope) -> bool:
        path = path_of(scope)
        return path in self.checked_paths or path in WITHOUT_BODY or path.startswith(OWN_PATHS)


def _field(body: bytes) -> object:
    """Return the field `priority` of a JSON object; 0 where there is none."""
    with suppress(ValueError, RecursionError):
        value = json.loads(body)
        if isinstance(value, dict):
            return value.get("priority", 0)
    return 0


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives the body, which was read, and then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
