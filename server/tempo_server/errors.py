"""Errors of the server, and the one table from exception to HTTP status.

TempoError
├── StartError (RuntimeError)
├── NotReadyError (RuntimeError)
├── AuthenticationError (PermissionError)
├── ForbiddenError (PermissionError)
├── TooLargeError (ValueError)
├── VerifierUnavailableError (RuntimeError)
├── ConflictError (ValueError)      of tempo_storage
│   └── JobRunningError
└── CorruptAdapterError (ValueError)      of tempo_storage
    └── ProbeFailedError
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError

from tempo_storage.errors import (
    ConflictError,
    CorruptAdapterError,
    GateRefusedError,
    InvalidInputError,
    NotFoundError,
    StreamUnavailableError,
    TempoError,
)


class StartError(TempoError, RuntimeError):
    """vLLM was started in a way in which the plugin cannot keep its promises."""


class NotReadyError(TempoError, RuntimeError):
    """The server is still starting; try again shortly."""


class AuthenticationError(TempoError, PermissionError):
    """The request carries no key, or one that is not known."""


class ForbiddenError(TempoError, PermissionError):
    """The key is known, but its scopes do not allow this."""


class TooLargeError(TempoError, ValueError):
    """The upload is larger than what is accepted; split it."""


class VerifierUnavailableError(TempoError, RuntimeError):
    """The process that reads references does not start; install vllm-tempo[trainer] here."""


class JobRunningError(ConflictError):
    """A job of this mode has not ended yet; wait for it or cancel it."""


class ProbeFailedError(CorruptAdapterError):
    """vLLM loaded the adapter, but does not compute what was trained; it is never served."""


# The first class that matches decides: (status, type, code).
TABLE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (AuthenticationError, 401, "authentication_error", "invalid_api_key"),
    (ForbiddenError, 403, "permission_error", "insufficient_scope"),
    (NotFoundError, 404, "not_found_error", "not_found"),
    (CorruptAdapterError, 409, "conflict_error", "corrupt_adapter"),
    (GateRefusedError, 422, "conflict_error", "gate_failed"),
    (JobRunningError, 409, "conflict_error", "job_already_running"),
    (ConflictError, 409, "conflict_error", "conflict"),
    (TooLargeError, 413, "invalid_request_error", "too_large"),
    (InvalidInputError, 400, "invalid_request_error", "invalid_input"),
    (VerifierUnavailableError, 503, "server_error", "verifier_unavailable"),
    (NotReadyError, 503, "server_error", "not_ready"),
    (StreamUnavailableError, 503, "server_error", "stream_unavailable"),
    (OperationalError, 503, "server_error", "database_unavailable"),
)
RETRY_AFTER_SECONDS = "1"


def error_response(error: Exception, *, param: str | None = None) -> JSONResponse:
    """Return OpenAI's shape of an error, with the status that the table gives it."""
    for kind, status, type_name, code in TABLE:
        if isinstance(error, kind):
            headers = {"Retry-After": RETRY_AFTER_SECONDS} if status == 503 else None
            body = error_body(_message(error), type_name, code=code, param=param)
            return JSONResponse(body, status_code=status, headers=headers)
    return JSONResponse(error_body(_message(error), "server_error", code="internal_error"), 500)


def error_body(
    message: str, type_name: str, *, code: str, param: str | None = None
) -> dict[str, Any]:
    """Return the body of an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": type_name, "param": param, "code": code}}


def install(app: FastAPI) -> None:
    """Answer our errors, from whichever route, through the table."""
    app.add_exception_handler(TempoError, _handle)
    app.add_exception_handler(OperationalError, _handle)


def _handle(_request: Request, error: Exception) -> JSONResponse:
    return error_response(error)


def _message(error: Exception) -> str:
    if isinstance(error, OperationalError):  # its text holds the statement and its parameters
        return "the database does not answer; try again, and check TEMPO_DATABASE_URL"
    return str(error)
