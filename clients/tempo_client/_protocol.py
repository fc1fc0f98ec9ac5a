"""Requests, responses and retries without I/O: generators that a client of any kind drives.

    flow = exchange_with_retries(request, …)   yields Request | Pause, returns the parsed body
    Request -> Response | Failure              Pause -> None

Generators, not a base class, so that a blocking and an asynchronous client share every decision
and differ in how they wait.
"""

import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

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


@dataclass(frozen=True, slots=True)
class Request:
    """What to send; `idempotent` says that sending it twice does no harm."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    form: Mapping[str, str] | None = None
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask the driver to wait."""

    seconds: float


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
Step: TypeAlias = Request | Pause
Flow: TypeAlias = Generator[Step, Outcome | None, T]


def get(path: str, **query: str | int) -> Request:
    """Return a GET below the prefix; reading is idempotent."""
    return Request("GET", PREFIX + path, query=query, idempotent=True)


def post(path: str, body: Mapping[str, Any], *, idempotent: bool = False) -> Request:
    """Return a POST of a JSON body below the prefix."""
    return Request("POST", PREFIX + path, json=body, idempotent=idempotent)


def upload(path: str, filename: str, *, content: bytes, form: Mapping[str, str]) -> Request:
    """Return a multipart POST of one file; the server recognises one that it has."""
    files = {"file": (filename, content)}
    return Request("POST", PREFIX + path, files=files, form=form, idempotent=True)


def exchange_with_retries(
    request: Request,
    *,
    max_retries: int = MAX_RETRIES,
    jitter: Callable[[], float] = random.random,
) -> Flow[dict[str, Any]]:
    """Yield what to do next until the answer is known; return the JSON object of a 2xx.

    Raises APIStatusError, APIConnectionError or APITimeoutError by kind, and APIError for a 2xx
    that is no JSON object.
    """
    for attempt in range(max_retries + 1):
        outcome = yield request
        assert outcome is not None
        if isinstance(outcome, Response) and outcome.status_code < 400:
            return _object(request, outcome)
        if attempt == max_retries or not _may_retry(request, outcome):
            raise _error(request, outcome)
        yield Pause(_pause_seconds(attempt, outcome, jitter()))
    raise AssertionError("the last attempt returns or raises")


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
    if isinstance(outcome, Response) and (asked := _retry_after(outcome)) is not None:
        return asked
    pause = min(FIRST_PAUSE_SECONDS * 2.0**attempt, LONGEST_PAUSE_SECONDS)
    return pause * (1.0 - 0.25 * jitter)


def _retry_after(response: Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds <= LONGEST_RETRY_AFTER_SECONDS else None


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
