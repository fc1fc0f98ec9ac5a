"""Check in a process of its own that each reference's verifier can read it.

The server must not run a verifier, which may hang. The module of the verifiers runs as a process
that can be killed. It reads one line for each reference and answers with one line, which holds the
error if there is one. A reference on which the process hangs or dies gets an error, and a new
process goes on with the next one.
"""

import json
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import IO, Any, Self

from tempo_server.errors import VerifierUnavailableError
from tempo_storage.labeled.file import LineError
from tempo_storage.labeled.line import Example

# The same group as in the trainer, which the server must not import.
GROUP = "tempo.verifiers"
# -P: a file in the working directory must not replace an installed module.
COMMAND = (sys.executable, "-P", "-m", "tempo_trainer.sampling.verifiers", "check")
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
            replies = list(process.replies(remaining))
            has_answered |= bool(replies)
            errors += [_refusal(reply) for reply in replies if reply["error"]]
            example, remaining = _next(remaining, len(replies))
            if example is None:
                break
            failures += 1
            code, message = process.failure()
        if code == "verifier_failed" and not has_answered and (failures > 1 or not remaining):
            raise VerifierUnavailableError(
                f"the verifiers do not start ({message}); install vllm-tempo[trainer] on the server"
            )
        errors.append(_error(example.line, code, message))
    return errors


def _next(examples: list[Example], answered: int) -> tuple[Example | None, list[Example]]:
    """Return the first example without an answer, if there is one, and those after it."""
    return (examples[answered] if answered < len(examples) else None), examples[answered + 1 :]


def _refusal(reply: dict[str, Any]) -> LineError:
    return _error(reply["line"], "invalid_reference", f"{reply['error']}; {REMEDY}")


def _error(line: int, code: str, message: str) -> LineError:
    return LineError(line, code, "reference_answer", message)


class _Process:
    """A process that checks one reference after the other."""

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

    def replies(self, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
        """Yield the replies to the examples, up to one on which the process hangs or ends."""
        for example in examples:
            reply = self._ask(example)
            if reply is None:
                return
            yield reply

    def _ask(self, example: Example) -> dict[str, Any] | None:
        stdin = self._process.stdin
        stdout = self._process.stdout
        assert stdin is not None
        assert stdout is not None
        question = {
            "line": example.line,
            "verifier": example.verifier,
            "reference": example.reference,
            "metadata": example.details,
        }
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return None
        # The process writes whole lines, so a readable pipe soon holds a whole one.
        ready, _, _ = select.select([stdout], [], [], self._seconds)
        self._timed_out = not ready
        self._seconds = self._timeout_seconds
        line = stdout.readline() if ready else b""
        reply: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return reply

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
