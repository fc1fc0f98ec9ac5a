"""Errors of the store; server and trainer derive theirs from the same root.

    TempoError
    ├── NotFoundError (LookupError)
    ├── ConflictError (ValueError)
    │   └── GateRefusedError
    ├── InvalidInputError (ValueError)
    │   └── TooLargeError
    ├── UnservableAdapterError (ValueError)
    │   ├── CorruptAdapterError
    │   └── AdapterMismatchError
    ├── LeaseLostError (RuntimeError)
    ├── SettingsError (ValueError)
    └── StreamUnavailableError (ConnectionError)

Each message says what happened, with the value, and then the remedy.
"""


class TempoError(Exception):
    """Root of everything that vllm-tempo raises on purpose."""


class NotFoundError(TempoError, LookupError):
    """No row or adapter has this id; list them first."""


class ConflictError(TempoError, ValueError):
    """The state changed since the caller read it; read it again and decide again."""


class GateRefusedError(ConflictError):
    """The gate rejected this adapter; only force promotes it."""


class InvalidInputError(TempoError, ValueError):
    """The input cannot be used; nothing was stored."""


class TooLargeError(InvalidInputError):
    """The upload exceeds a limit; split it."""


class UnservableAdapterError(TempoError, ValueError):
    """This server cannot serve the adapter; serve another version."""


class CorruptAdapterError(UnservableAdapterError):
    """The adapter's files differ from its manifest, or its probe failed; it never serves again."""


class AdapterMismatchError(UnservableAdapterError):
    """The adapter is intact, but not for this server's base or rank."""


class LeaseLostError(TempoError, RuntimeError):
    """Another worker holds the lease; this worker must not commit its results."""


class SettingsError(TempoError, ValueError):
    """A TEMPO_ variable is unknown or out of bounds; the process must not start."""


class StreamUnavailableError(TempoError, ConnectionError):
    """Valkey did not answer; the questions stay in the spool and are sent later."""
