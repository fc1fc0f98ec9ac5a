"""Describe an error for a log, an event or an answer without a question's text in it.

The message of an error that we did not write may quote the value at fault: a database's, a
parser's, a verifier's. So only its class is shown, and the places in the code where it was raised.
"""

import sys
import threading
import traceback

from sqlalchemy.exc import InterfaceError, OperationalError

from tempo_storage.errors import TempoError

MAX_CHARACTERS = 300
HEADER = "Traceback (most recent call last):\n"


def reason(error: BaseException) -> str:
    """Return an error in one line.

    The messages of our own errors, of the operating system, of imports and of a database that does
    not answer quote no question.
    """
    if isinstance(error, TempoError):
        return str(error)
    name = type(error).__name__
    text = ""
    if isinstance(error, OperationalError | InterfaceError):
        text = str(error.orig).split("\n")[0].split(" with text '")[0]  # SQLite quotes bad UTF-8
    elif isinstance(error, OSError):
        text = error.strerror or ""
    elif isinstance(error, ImportError):
        text = f"no module {error.name!r}"
    elif type(error).__module__.partition(".")[0] == "torch":  # out of memory, above all
        text = str(error)
    return f"{name}: {text}"[:MAX_CHARACTERS] if text else name


def trace(error: BaseException) -> str:
    """Return a traceback whose last line, and that of each cause, is its `reason`."""
    lines = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frames = traceback.format_tb(cause.__traceback__)
        lines.append("".join([HEADER, *frames, reason(cause)]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n\ncaused this:\n\n".join(reversed(lines))


def hide_messages() -> None:
    """Let errors that nobody catches, in any thread of this process, print their `trace` only."""

    def show(error: BaseException) -> None:
        print(trace(error), file=sys.stderr)

    sys.excepthook = lambda _kind, error, _trace: show(error)
    threading.excepthook = lambda hooked: show(hooked.exc_value or SystemExit())
