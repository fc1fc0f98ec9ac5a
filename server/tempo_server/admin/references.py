"""Ask verifiers in a process of their own: can they read references, are responses right?

The server must not run a verifier, which may hang. The module of the verifiers runs as a process
that can be killed. It reads one line for each item and answers with one line. An item on which the
process hangs or dies gets an error, or no verdict, and a new process goes on with the next one.
"""

import json
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import IO, Any, Self

from tempo_server.errors import VerifierUnavailableError
from tempo_storage.labeled.file import LineError
from tempo_storage.labeled.line import Example
from tempo_storage.labeled.refusal import shown

# The same group as in the trainer, which the server must not import.
GROUP = "tempo.verifiers"
# -P: a file in the working directory must not replace an installed module.
COMMAND = (sys.executable, "-P", "-m", "tempo_trainer.sampling.verifiers", "check")
VERIFY_COMMAND = (*COMMAND[:-1], "serve")
# Generous, because a busy machine must not make a reference invalid.
START_SECONDS = 60.0
SECONDS_PER_EXAMPLE = 5.0
MAX_HANGING = 10  # references; a file with more of them has a broken verifier
REMEDY = "correct it or name another verifier"


def installed() -> set[str]:
    """Return the names of the installed verifiers without importing one."""
    return {entry.name for entry in entry_points(group=GROUP)}


def check(
    examples: Sequence[Example],
    *,
    command: Sequence[str] = COMMAND,
    timeout_seconds: float = SECONDS_PER_EXAMPLE,
) -> list[LineError]:
    """Return an error for each reference that its verifier cannot read.

    A reference on which the process hangs or dies costs `timeout_seconds` at most, and the others
    are checked all the same; after 10 of them the check ends. Raises VerifierUnavailableError if
    the process does not start.
    """
    errors: list[LineError] = []
    remaining = list(examples)
    has_answered = False
    failures = 0
    while remaining and failures < MAX_HANGING:
        with _Process(command, timeout_seconds) as process:
            replies = list(process.replies([_question(example) for example in remaining]))
            has_answered |= bool(replies)
            faults = [(e, reply["error"]) for e, reply in zip(remaining, replies, strict=False)]
            errors += [_refusal(example, fault) for example, fault in faults if fault]
            example, remaining = _next(remaining, len(replies))
            if example is None:
                break
            failures += 1
            code, message = process.failure()
        if code == "verifier_failed" and not has_answered and (failures > 1 or not remaining):
            raise _unavailable(message)
        errors.append(_error(example, code, message))
    return errors


def verify(
    items: Sequence[Mapping[str, Any]],
    *,
    command: Sequence[str] = VERIFY_COMMAND,
    timeout_seconds: float = SECONDS_PER_EXAMPLE,
) -> list[dict[str, Any] | None]:
    """Return the verdict on each response, in order: a dict with `correct` and `extracted`.

    An item has `verifier`, `response`, `reference` and `metadata`. The verdict is None where the
    process hangs or dies, and for all later items after 10 such ones. Raises
    VerifierUnavailableError if the process does not start.
    """
    verdicts: list[dict[str, Any] | None] = []
    failures = 0
    while len(verdicts) < len(items) and failures < MAX_HANGING:
        with _Process(command, timeout_seconds) as process:
            if not process.is_ready():
                raise _unavailable(process.failure()[1])
            verdicts += process.replies(items[len(verdicts) :])
        if len(verdicts) < len(items):
            failures += 1
            verdicts.append(None)
    return [*verdicts, *[None] * (len(items) - len(verdicts))]


def _unavailable(message: str) -> VerifierUnavailableError:
    return VerifierUnavailableError(
        f"the verifiers do not start ({message}); install vllm-tempo[trainer] on the server"
    )


def _question(example: Example) -> dict[str, Any]:
    return {
        "line": example.line,
        "verifier": example.verifier,
        "reference": example.reference,
        "metadata": example.details,
    }


def _next(examples: list[Example], answered: int) -> tuple[Example | None, list[Example]]:
    """Return the first example without an answer, if there is one, and those after it."""
    return (examples[answered] if answered < len(examples) else None), examples[answered + 1 :]


def _refusal(example: Example, fault: str) -> LineError:
    """Return the error of a reference, or of the field of the metadata that a fault begins with."""
    message = f"{fault}; {REMEDY}"
    if fault.startswith(("metadata.", "grader.")):
        return LineError(example.line, "invalid_reference", fault.split()[0], message)
    return _error(example, "invalid_reference", message)


def _error(example: Example, code: str, message: str) -> LineError:
    value = shown(example.reference)
    return LineError(example.line, code, example.reference_name, message, value)


class _Process:
    """A process that answers one item after the other."""

    def __init__(self, command: Sequence[str], timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._seconds = START_SECONDS if timeout_seconds >= SECONDS_PER_EXAMPLE else timeout_seconds
        self._timed_out = False
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass  # closes its pipes, and reaps it
        self._messages.close()

    def is_ready(self) -> bool:
        """Wait until the process says that it has started; return False if it does not."""
        return self._read_line().startswith(b"ready")

    def replies(self, items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the replies to the items, up to one on which the process hangs or ends."""
        for item in items:
            reply = self._ask(item)
            if reply is None:
                return
            yield reply

    def _ask(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(item).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._read_line()
        try:
            reply: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # a verifier's own print
            self._process.kill()
            return None
        return reply

    def _read_line(self) -> bytes:
        """Return the next line, or b"" if none comes in time."""
        assert self._process.stdout is not None
        # The process writes whole lines, so a readable pipe soon holds a whole one.
        ready, _, _ = select.select([self._process.stdout], [], [], self._seconds)
        self._timed_out = not ready
        self._seconds = self._timeout_seconds
        return self._process.stdout.readline() if ready else b""

    def failure(self) -> tuple[str, str]:
        """Return the code and the message of the failure."""
        if self._timed_out:
            seconds = self._timeout_seconds
            message = f"the verifier did not end within {seconds:g} s; simplify the reference"
            return "verifier_timeout", message
        status = self._process.wait()
        if status == -signal.SIGALRM:
            return "verifier_timeout", "the verifier hangs on it; simplify the reference"
        self._messages.seek(0)
        text = self._messages.read().decode(errors="replace")
        last = (text.strip().splitlines() or ["no message"])[-1]
        return "verifier_failed", f"exit status {status}: {last[:200]}"
