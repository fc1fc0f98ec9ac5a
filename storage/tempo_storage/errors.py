"""Errors of the store; server and trainer derive theirs from the same root.

    TempoError
    ├── NotFoundError (LookupError)
    ├── ConflictError (ValueError)
    │   └── GateRefusedError
    ├── InvalidInputError (ValueError)
    │   └── TooLargeError
    ├── CorruptAdapterError (ValueError)
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
    """The state changed since the caller read it; read it again and decide anew."""


class GateRefusedError(ConflictError):
    """The gate rejected this adapter; only force promotes it."""


class InvalidInputError(TempoError, ValueError):
    """What was given cannot be used; nothing was stored."""


class TooLargeError(InvalidInputError):
    """The upload is larger than what is accepted; split it."""


class CorruptAdapterError(TempoError, ValueError):
    """The adapter's files are not what its manifest promises; it is never served."""


class AdapterMismatchError(CorruptAdapterError):
    """The adapter is intact, but not for this server's base or rank."""


class LeaseLostError(TempoError, RuntimeError):
    """Another worker holds the lease; whatever this one computed must not be committed."""


class SettingsError(TempoError, ValueError):
    """A TEMPO_ variable is unknown or out of bounds; the process must not start."""


class StreamUnavailableError(TempoError, ConnectionError):
    """Valkey did not answer; the questions stay in the spool and are sent later."""
