"""Requests, responses and retries without I/O; how a request is sent and time passes, clients say.

All is written once, as coroutines. Those of an asynchronous client are awaited by its user. Those
of a blocking client await nothing that suspends, and `complete` runs them like functions.
"""

import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from tempo_client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    status_error_type,
)

PREFIX = "/tempo/v1"
MAX_RETRIES = 2
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 120.0
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})

T = TypeVar("T")


class Blocking:
    """Marks the operations of a client whose methods return results."""


class Suspending:
    """Marks the operations of a client whose methods return coroutines."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: `options` are httpx's, `idempotent` says that sending it twice does no harm."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; header names are lower case."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    def body(self) -> Any:
        """Return the parsed JSON body, or the text where it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return self.content.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Failure:
    """No response; `sent` is whether the server may have received the request."""

    cause: Exception
    sent: bool
    timed_out: bool = False


Outcome: TypeAlias = Response | Failure
Send: TypeAlias = Callable[[Request], Awaitable[Outcome]]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]


class Connection(Protocol):
    """What an operation uses of its client."""

    _blocks: bool
    _max_retries: int

    async def _send(self, request: Request) -> Outcome: ...

    async def _sleep(self, seconds: float) -> None: ...


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that does not suspend, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a coroutine of the blocking client has suspended")


def get(path: str, **query: str | int) -> Request:
    """Return a GET below the prefix; reading is idempotent."""
    return Request("GET", PREFIX + path, {"params": query}, idempotent=True)


def post(path: str, body: Mapping[str, Any], *, idempotent: bool = False) -> Request:
    """Return a POST of a JSON body below the prefix."""
    return Request("POST", PREFIX + path, {"json": body}, idempotent=idempotent)


def delete(path: str, **query: str) -> Request:
    """Return a DELETE below the prefix; what is gone is gone."""
    return Request("DELETE", PREFIX + path, {"params": query}, idempotent=True)


async def exchange(
    request: Request,
    send: Send,
    sleep: Sleep,
    *,
    max_retries: int = MAX_RETRIES,
    jitter: Callable[[], float] = random.random,
) -> dict[str, Any]:
    """Send until the answer is known; return the JSON object of a 2xx.

    Raises APIStatusError, APIConnectionError or APITimeoutError by kind, and APIError for a 2xx
    that is no JSON object.
    """
    attempt = 0
    while True:
        outcome = await send(request)
        if isinstance(outcome, Response) and outcome.status_code < 400:
            return _object(request, outcome)
        if attempt >= max_retries or not _may_retry(request, outcome):
            raise _error(request, outcome)
        await sleep(_pause_seconds(attempt, outcome, jitter()))
        attempt += 1


def _object(request: Request, response: Response) -> dict[str, Any]:
    body = response.body()
    if not isinstance(body, dict):
        raise APIError(
            f"{response.status_code} on {request.method} {request.path} without a JSON object; "
            "is the base URL that of a vLLM server with the tempo plugin"
        )
    return body


def _may_retry(request: Request, outcome: Outcome) -> bool:
    if isinstance(outcome, Failure):
        return request.idempotent or not outcome.sent
    if outcome.headers.get("x-should-retry") == "false":
        return False
    return request.idempotent and outcome.status_code in RETRIED_STATUSES


def _pause_seconds(attempt: int, outcome: Outcome, jitter: float) -> float:
    """Return Retry-After, or 0.5 s doubled each time up to 8 s, less up to a quarter."""
    if isinstance(outcome, Response):
        with contextlib.suppress(ValueError):
            asked = float(outcome.headers.get("retry-after", ""))
            if 0 < asked <= LONGEST_RETRY_AFTER_SECONDS:
                return asked
    pause = min(FIRST_PAUSE_SECONDS * 2.0**attempt, LONGEST_PAUSE_SECONDS)
    return pause * (1.0 - 0.25 * jitter)


def _error(request: Request, outcome: Outcome) -> APIError:
    if isinstance(outcome, Response):
        return _status_error(request, outcome)
    what = f"{request.method} {request.path}"
    kind, said = APIConnectionError, "reached no server, check base_url and that it runs"
    if outcome.timed_out:
        kind, said = APITimeoutError, "got no answer in time, raise timeout or read its log"
    error = kind(f"{what} {said}: {outcome.cause!r}")
    error.__cause__ = outcome.cause
    return error


def _status_error(request: Request, response: Response) -> APIStatusError:
    body = response.body()
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error or body
    return status_error_type(response.status_code)(
        f"{response.status_code} on {request.method} {request.path}: {message}",
        status_code=response.status_code,
        request_id=response.headers.get("x-request-id"),
        body=body,
    )
