"""The exchange of a request for an answer: retries, pauses and errors, by a scripted connection."""

from typing import Any

import httpx
import pytest
from fake_api import client

import tempo_client
from tempo_client._protocol import Blocking, Connection, Request, complete, exchange

IDEMPOTENT = Request("GET", "/x", idempotent=True)
ONCE = Request("POST", "/x")
REFUSED = httpx.ConnectError("refused")
SLOW = httpx.ReadTimeout("slow")


class Scripted(Connection[Blocking]):
    """A connection with these outcomes, one for each request that it sends."""

    _blocks = True

    def __init__(self, outcomes: tuple[httpx.Response | Exception, ...], max_retries: int) -> None:
        self._max_retries = max_retries
        self.outcomes = list(outcomes)
        self.pauses: list[float] = []

    async def _send(self, request: Request) -> httpx.Response:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def response(status: int, body: Any = None, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=names, json=body or {})


def drive(
    request: Request,
    *outcomes: httpx.Response | Exception,
    jitter: float = 0.0,
    max_retries: int = 2,
) -> Any:
    """Exchange a request on a connection with these outcomes; return result or error, and pauses.

    All outcomes must be used up.
    """
    connection = Scripted(outcomes, max_retries)
    try:
        result: Any = complete(exchange(connection, request, jitter=lambda: jitter))
    except tempo_client.TempoError as error:
        result = error
    assert connection.outcomes == [], "a retry did not come"
    return result, connection.pauses


# Retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_idempotent_request_is_sent_three_times(status: int) -> None:
    result, pauses = drive(IDEMPOTENT, response(status), response(status), response(200, {"a": 1}))
    assert result == {"a": 1}
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("outcome", [response(503), SLOW, httpx.RemoteProtocolError("cut")])
def test_a_request_that_may_have_had_its_effect_is_not_sent_again(outcome: Any) -> None:
    result, pauses = drive(ONCE, outcome)
    assert isinstance(result, tempo_client.APIError)
    assert pauses == []


@pytest.mark.parametrize(
    "outcome", [REFUSED, httpx.ConnectTimeout("slow"), httpx.PoolTimeout("busy")]
)
def test_a_request_that_never_left_is_sent_again(outcome: Any) -> None:
    result, pauses = drive(ONCE, outcome, response(200, {"a": 1}))
    assert (result, pauses) == ({"a": 1}, [0.5])


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_a_refused_request_is_not_sent_again(status: int) -> None:
    result, pauses = drive(IDEMPOTENT, response(status))
    assert (result.status_code, pauses) == (status, [])


def test_the_server_may_forbid_a_retry() -> None:
    result, _ = drive(IDEMPOTENT, response(507, x_should_retry="false"))
    assert result.status_code == 507


@pytest.mark.parametrize(
    ("header", "pause"), [("7", 7.0), ("0", 0.5), ("3600", 0.5), ("soon", 0.5), ("nan", 0.5)]
)
def test_retry_after_is_honoured_up_to_two_minutes(header: str, pause: float) -> None:
    _, pauses = drive(IDEMPOTENT, response(503, retry_after=header), response(200))
    assert pauses == [pause]


def test_pauses_double_up_to_eight_seconds_and_jitter_shortens_them() -> None:
    answers = [response(500)] * 6 + [response(200)]
    _, pauses = drive(IDEMPOTENT, *answers, jitter=1.0, max_retries=6)
    assert pauses == [0.375, 0.75, 1.5, 3.0, 6.0, 6.0]


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, tempo_client.BadRequestError),
        (401, tempo_client.AuthenticationError),
        (403, tempo_client.PermissionDeniedError),
        (404, tempo_client.NotFoundError),
        (409, tempo_client.ConflictError),
        (418, tempo_client.APIStatusError),
        (422, tempo_client.UnprocessableEntityError),
        (429, tempo_client.RateLimitError),
        (500, tempo_client.InternalServerError),
        (507, tempo_client.InternalServerError),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[Exception]) -> None:
    error = {"message": "why", "code": "c", "param": "p", "line_errors": [{"line": 1}]}
    result, _ = drive(ONCE, response(status, {"error": error}, x_request_id="req_1"))
    assert type(result) is kind
    assert (result.code, result.param, result.request_id) == ("c", "p", "req_1")
    assert str(result) == f"{status} on POST /x: why"
    if status == 400:
        assert result.line_errors == [{"line": 1}]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"error": "Unauthorized"}', b"", b"\xff"])
def test_a_refusal_of_another_shape_is_still_an_error(content: bytes) -> None:
    result, _ = drive(ONCE, httpx.Response(401, content=content))
    assert isinstance(result, tempo_client.AuthenticationError)
    assert result.code is None


@pytest.mark.parametrize("status", [200, 302])
@pytest.mark.parametrize("content", [b"<html>", b"[]", b""])
def test_a_server_without_the_plugin_is_recognised(status: int, content: bytes) -> None:
    result, _ = drive(IDEMPOTENT, httpx.Response(status, content=content))
    assert isinstance(result, tempo_client.APIError)
    assert "tempo plugin" in str(result)


@pytest.mark.parametrize(
    ("error", "kind", "requests"),
    [
        (REFUSED, tempo_client.APIConnectionError, 2),
        (httpx.ConnectTimeout("slow"), tempo_client.APITimeoutError, 2),
        (SLOW, tempo_client.APITimeoutError, 1),
        (httpx.RemoteProtocolError("cut"), tempo_client.APIConnectionError, 1),
    ],
)
def test_a_client_raises_errors_of_its_own_and_keeps_their_cause(
    error: Exception, kind: type[Exception], requests: int
) -> None:
    count = 0

    def refuse(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        raise error

    with client(refuse, max_retries=1) as tempo, pytest.raises(kind) as caught:
        tempo.jobs.create()
    assert count == requests
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
    remedy = "raise timeout" if isinstance(error, httpx.TimeoutException) else "check base_url"
    assert remedy in str(caught.value)


def test_errors_are_also_those_of_the_standard_library() -> None:
    assert issubclass(tempo_client.NotFoundError, LookupError)
    assert issubclass(tempo_client.APITimeoutError, TimeoutError)
    assert issubclass(tempo_client.APIConnectionError, ConnectionError)
    assert issubclass(tempo_client.ConfigurationError, ValueError)
    assert issubclass(tempo_client.JobTimeoutError, TimeoutError)
