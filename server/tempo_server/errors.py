"""The server's errors, and the one table from exception to HTTP status.

TempoError
├── StartError (RuntimeError)
├── NotReadyError (RuntimeError)
├── AuthenticationError (PermissionError)
├── InsufficientScopeError (PermissionError)
├── VerifierUnavailableError (RuntimeError)
├── BusyError (RuntimeError)
├── SlowRequestError (TimeoutError)
└── ConflictError (ValueError)            in tempo_storage
    └── JobRunningError
"""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError

from tempo_storage import errors as stored
from tempo_storage.errors import TempoError


class StartError(TempoError, RuntimeError):
    """vLLM was started in a way in which the plugin cannot keep its promises."""


class NotReadyError(TempoError, RuntimeError):
    """The server is still starting; try again shortly."""


class AuthenticationError(TempoError, PermissionError):
    """The request carries no key, or a key that the server does not have."""


class InsufficientScopeError(TempoError, PermissionError):
    """The key lacks the scope that the message names; use a key that has it."""


class VerifierUnavailableError(TempoError, RuntimeError):
    """The process that reads references does not start; install vllm-tempo[trainer] here."""


class BusyError(TempoError, RuntimeError):
    """Too many requests of this kind are under way; try again later."""


class SlowRequestError(TempoError, TimeoutError):
    """The body of the request came too slowly."""


class JobRunningError(stored.ConflictError):
    """Another job of this mode is queued or runs; wait for it or cancel it."""


# The first class that matches decides.
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (AuthenticationError, 401, "invalid_api_key"),
    (InsufficientScopeError, 403, "insufficient_scope"),
    (stored.NotFoundError, 404, "not_found"),
    (stored.CorruptAdapterError, 409, "corrupt_adapter"),
    (stored.AdapterMismatchError, 409, "adapter_mismatch"),
    (stored.GateRefusedError, 422, "gate_failed"),
    (JobRunningError, 409, "job_already_running"),
    (stored.ConflictError, 409, "conflict"),
    (stored.TooLargeError, 413, "too_large"),
    (stored.InvalidInputError, 400, "invalid_input"),
    (SlowRequestError, 408, "request_timeout"),
    (BusyError, 429, "rate_limit_exceeded"),
    (VerifierUnavailableError, 503, "verifier_unavailable"),
    (NotReadyError, 503, "not_ready"),
    (stored.StreamUnavailableError, 503, "stream_unavailable"),
    (OperationalError, 503, "database_unavailable"),
)
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    422: "conflict_error",
    429: "rate_limit_error",
}
# Without this header OpenAI's client would send a request that got 409 or 507 again, in vain.
NO_RETRY = {"x-should-retry": "false"}
HEADERS = {409: NO_RETRY, 507: NO_RETRY, 429: {"Retry-After": "10"}, 503: {"Retry-After": "1"}}


def error_response(error: Exception, *, param: str | None = None) -> JSONResponse:
    """Return the HTTP response for an exception: the table's status, else 500."""
    message = str(error)
    if isinstance(error, OperationalError):  # its text holds the statement and its parameters
        message = "the database does not answer; try again, and check TEMPO_DATABASE_URL"
    for kind, status, code in TABLE:
        if isinstance(error, kind):
            return json_error(status, message, code, param=param)
    return json_error(500, message, "internal_error")


def json_error(
    status: int, message: str, code: str, *, param: str | None = None, **details: Any
) -> JSONResponse:
    """Return an error in the form that OpenAI's clients read."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code, **details}
    return JSONResponse({"error": error}, status, headers=HEADERS.get(status))


def install(app: FastAPI) -> None:
    """Let the table answer our errors on every route of the app."""
    for kind in (TempoError, OperationalError):
        app.add_exception_handler(kind, lambda _, error: error_response(error))
