"""Why a job ends before its work is done.

TempoError
├── StoppedError (RuntimeError)
└── CancelledError (RuntimeError)
"""

from tempo_storage.errors import TempoError


class StoppedError(TempoError, RuntimeError):
    """The worker was told to stop, or training was paused, between two iterations."""


class CancelledError(TempoError, RuntimeError):
    """Somebody cancelled the job or moved the serving version, or it gave way to another job."""
