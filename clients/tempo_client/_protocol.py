"""Requests, responses and retries; a client supplies the sending and the waiting.

Everything is written once, as coroutines. The user of an asynchronous client awaits them. The
coroutines of a blocking client never suspend, so `complete` runs them like functions.
"""

import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx

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
MAX_PAUSE_SECONDS = 8.0
MAX_RETRY_AFTER_SECONDS = 120.0
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  # no byte left the client


class Blocking:
    """Marks a client whose methods return results."""


class Suspending:
    """Marks a client whose methods return coroutines."""


C = TypeVar("C", bound=Blocking | Suspending)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request: `options` are httpx's, and an idempotent one may be sent twice."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    idempotent: bool = False

    def __str__(self) -> str:
        """Return the name of this request in error messages."""
        return f"{self.method} {self.path}"


Outcome: TypeAlias = httpx.Response | httpx.RequestError


class Connection(ABC, Generic[C]):
    """The part of a client that sends requests and waits; a Blocking one never suspends."""

    _blocks: bool
    _max_retries: int

    @abstractmethod
    async def _send(self, request: Request) -> httpx.Response:
        """Send a request once; raise httpx.RequestError where no response comes."""

    @abstractmethod
    async def _sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a coroutine of the blocking client has suspended")


def get(path: str, **query: str | int) -> Request:
    """Return a GET below the prefix; it is idempotent because it only reads."""
    return Request("GET", PREFIX + path, {"params": query}, idempotent=True)


def post(path: str, body: Mapping[str, Any], *, idempotent: bool = False) -> Request:
    """Return a POST of a JSON body below the prefix."""
    return Request("POST", PREFIX + path, {"json": body}, idempotent=idempotent)


def put(path: str, body: Mapping[str, Any]) -> Request:
    """Return a PUT of a JSON body below the prefix; it is idempotent because it sets a state."""
    return Request("PUT", PREFIX + path, {"json": body}, idempotent=True)


def delete(path: str, **query: str) -> Request:
    """Return a DELETE below the prefix; it is idempotent because a second one deletes nothing."""
    return Request("DELETE", PREFIX + path, {"params": query}, idempotent=True)


async def exchange(
    connection: Connection[Any], request: Request, *, jitter: Callable[[], float] = random.random
) -> dict[str, Any]:
    """Send a request, with retries where they are safe; return the JSON object of the response.

    Raises APIStatusError for a status of 400 or more, APIConnectionError or APITimeoutError where
    no response comes, and APIError where a response of success is not a JSON object.
    """
    attempt = 0
    while True:
        try:
            outcome: Outcome = await connection._send(request)
        except httpx.RequestError as error:
            outcome = error
        if isinstance(outcome, httpx.Response) and outcome.status_code < 400:
            return _json_object(request, outcome)
        if attempt >= connection._max_retries or not _may_retry(request, outcome):
            raise _error(request, outcome)
        await connection._sleep(_pause_seconds(attempt, outcome, jitter()))
        attempt += 1


def _json_object(request: Request, response: httpx.Response) -> dict[str, Any]:
    body = _body(response)
    if not isinstance(body, dict):
        raise APIError(
            f"{response.status_code} on {request} without a JSON object; "
            "is the base URL that of a vLLM server with the tempo plugin?"
        )
    return body


def _body(response: httpx.Response) -> Any:
    """Return the parsed JSON body, or the text of a body that is not JSON."""
    try:
        return response.json()
    except ValueError:
        return response.text


def _may_retry(request: Request, outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.RequestError):
        return request.idempotent or isinstance(outcome, NOT_SENT)
    if outcome.headers.get("x-should-retry") == "false":
        return False
    return request.idempotent and outcome.status_code in RETRIED_STATUSES


def _pause_seconds(attempt: int, outcome: Outcome, jitter: float) -> float:
    """Return Retry-After; without it 0.5 s, doubled at each attempt up to 8 s.

    The jitter takes up to a quarter off, so that clients do not come back at the same moment.
    """
    if isinstance(outcome, httpx.Response):
        with contextlib.suppress(ValueError):
            retry_after = float(outcome.headers.get("retry-after", ""))
            if 0 < retry_after <= MAX_RETRY_AFTER_SECONDS:
                return retry_after
    pause = min(FIRST_PAUSE_SECONDS * 2.0**attempt, MAX_PAUSE_SECONDS)
    return pause * (1.0 - 0.25 * jitter)


def _error(request: Request, outcome: Outcome) -> APIError:
    if isinstance(outcome, httpx.Response):
        return _status_error(request, outcome)
    kind = APIConnectionError
    remedy = "check base_url, and that the server runs there"
    if isinstance(outcome, httpx.TimeoutException):
        kind = APITimeoutError
        remedy = "raise timeout, or look into the server's log"
    error = kind(f"{request} got no response ({outcome!r}); {remedy}")
    error.__cause__ = outcome
    return error


def _status_error(request: Request, response: httpx.Response) -> APIStatusError:
    body = _body(response)
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error or body
    return status_error_type(response.status_code)(
        f"{response.status_code} on {request}: {message}",
        status_code=response.status_code,
        request_id=response.headers.get("x-request-id"),
        body=body,
    )
