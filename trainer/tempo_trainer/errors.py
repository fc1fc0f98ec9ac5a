"""Reasons why a job ends before its work is done.

TempoError
├── StoppedError (RuntimeError)
└── CancelledError (RuntimeError)
"""

from tempo_storage.errors import TempoError


class StoppedError(TempoError, RuntimeError):
    """The worker stops, or training is paused; the job returns to the queue."""


class CancelledError(TempoError, RuntimeError):
    """An operator cancelled the job, the serving version changed, or a check gave way to a job."""
