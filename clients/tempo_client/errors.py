"""The errors of the SDK; their names are those of OpenAI's client.

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
├── DatasetError                (ValueError)
├── JobFailedError
└── JobTimeoutError             (TimeoutError)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempo_client.types import Job


class TempoError(Exception):
    """The base class of every error of this package."""


class ConfigurationError(TempoError, ValueError):
    """A key, a valid address or an optional package is missing; the message says how to give it."""


class DatasetError(TempoError, ValueError):
    """A directory of Hugging Face's `datasets` cannot be read; the message says why."""


class APIError(TempoError):
    """A request got no usable answer."""


class APIConnectionError(APIError, ConnectionError):
    """No server answered; check `base_url`, and that the server runs there."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """The server did not answer in time; raise `timeout`, or look into its log."""


class APIStatusError(APIError):
    """The server refused a request; `code` and `param` are the server's words for the reason."""

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
    """400: the request is malformed; `line_errors` lists the bad lines of an uploaded file."""

    @property
    def line_errors(self) -> list[dict[str, Any]]:
        """The bad lines, each as `{"line", "code", "param", "message"}`."""
        errors = self.error.get("line_errors")
        return errors if isinstance(errors, list) else []


class AuthenticationError(APIStatusError):
    """401: the key is missing or unknown; the admin key is in the server's data directory."""


class PermissionDeniedError(APIStatusError):
    """403: the key lacks a scope; use a key that has it."""


class NotFoundError(APIStatusError, LookupError):
    """404: the server has no such file, job or adapter."""


class ConflictError(APIStatusError):
    """409: the server's state does not allow the request now; read the state and decide anew."""


class UnprocessableEntityError(APIStatusError):
    """422: the server understood and refused, as for an adapter that the gate rejected."""


class RateLimitError(APIStatusError):
    """429: too many requests; wait and send it again."""


class InternalServerError(APIStatusError):
    """5xx: the server failed; search its log for the `request_id`."""


class JobFailedError(TempoError):
    """A job failed or was cancelled; `job.error` has the reason."""

    def __init__(self, message: str = "", *, job: "Job | None" = None) -> None:
        super().__init__(message)
        self.job = job


class JobTimeoutError(TempoError, TimeoutError):
    """A job has not ended after the `timeout` of `jobs.wait`; it goes on, wait again."""


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
