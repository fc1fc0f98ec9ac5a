"""What can go wrong between the SDK and a server; the names are those of OpenAI's client.

TempoError
├── ConfigurationError          (ValueError)
├── APIError
│   ├── APIConnectionError      (ConnectionError)
│   │   └── APITimeoutError     (TimeoutError)
│   └── APIStatusError
│       ├── BadRequestError           400
│       ├── AuthenticationError       401
│       ├── PermissionDeniedError     403
│       ├── NotFoundError             404  (LookupError)
│       ├── ConflictError             409
│       ├── UnprocessableEntityError  422
│       ├── RateLimitError            429
│       └── InternalServerError       5xx
├── JobFailedError
└── JobTimeoutError             (TimeoutError)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempo_client.types import Job


class TempoError(Exception):
    """Every error of this package."""


class ConfigurationError(TempoError, ValueError):
    """No key, or an optional package is missing; the message says where to put it."""


class APIError(TempoError):
    """The server was asked and gave no usable answer."""


class APIConnectionError(APIError, ConnectionError):
    """No server answered; check the address, and that the server runs."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """The server did not answer in time; raise `timeout`, or look at its log."""


class APIStatusError(APIError):
    """The server refused; `code` and `param` are the server's words for why."""

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        request_id: str | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.body = body
        error = body.get("error") if isinstance(body, dict) else None
        self.error: dict[str, Any] = error if isinstance(error, dict) else {}
        self.code = self.error.get("code")
        self.param = self.error.get("param")


class BadRequestError(APIStatusError):
    """400: the request is malformed; `line_errors` names the bad lines of an uploaded file."""

    @property
    def line_errors(self) -> list[dict[str, Any]]:
        """Bad lines: `{"line", "code", "param", "message"}`."""
        found = self.error.get("line_errors")
        return found if isinstance(found, list) else []


class AuthenticationError(APIStatusError):
    """401: the key is missing or unknown; the admin key is in the server's data directory."""


class PermissionDeniedError(APIStatusError):
    """403: the key lacks the scope; use one that has it."""


class NotFoundError(APIStatusError, LookupError):
    """404: no such file, job or adapter."""


class ConflictError(APIStatusError):
    """409: the state has changed meanwhile; read it again and decide anew."""


class UnprocessableEntityError(APIStatusError):
    """422: understood and refused, as when the gate rejects an adapter."""


class RateLimitError(APIStatusError):
    """429: too many requests; wait."""


class InternalServerError(APIStatusError):
    """5xx: the server failed; its log has the request id."""


class JobFailedError(TempoError):
    """A job ended otherwise than in success; `job.error` says why."""

    def __init__(self, message: str = "", *, job: "Job | None" = None) -> None:
        super().__init__(message)
        self.job = job


class JobTimeoutError(TempoError, TimeoutError):
    """A job still runs after the time given to `wait`; it goes on, wait again."""


BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def status_error_type(status_code: int) -> type[APIStatusError]:
    """Return the class for a status code of 400 or more."""
    return BY_STATUS.get(status_code, InternalServerError if status_code >= 500 else APIStatusError)
