"""Check in a process of its own that each reference's verifier can read it.

The server must not import math-verify, which hangs past its own time-outs. The module of the
verifiers runs as a process that can be killed. It reads one line for each reference and answers
with one line, which holds the error if there is one.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from tempo_server.errors import VerifierUnavailableError
from tempo_storage.labeled.file import LineError
from tempo_storage.labeled.line import Example

# The same group as in the trainer, which the server must not import.
GROUP = "tempo.verifiers"
# -P: a file in the working directory must not replace an installed module.
COMMAND = (sys.executable, "-P", "-m", "tempo_trainer.sampling.verifiers", "check")
# Generous, because a busy machine must not make a reference invalid. A reference on which the
# verifier hangs ends the process after two minutes.
START_SECONDS = 30.0
SECONDS_PER_EXAMPLE = 0.05
REMEDY = "correct it or name another verifier"


def installed() -> set[str]:
    """Return the names of the installed verifiers without importing one."""
    return {entry.name for entry in entry_points(group=GROUP)}


def check(
    examples: Sequence[Example],
    *,
    command: Sequence[str] = COMMAND,
    timeout_seconds: float | None = None,
) -> list[LineError]:
    """Return an error for each reference that its verifier cannot read.

    A reference on which the process hangs or dies gets an error, too, and ends the check. Raises
    VerifierUnavailableError if the process does not start.
    """
    if not examples:
        return []
    timeout = timeout_seconds or START_SECONDS + SECONDS_PER_EXAMPLE * len(examples)
    output, code, message = _run(command, examples, timeout)
    replies = [json.loads(line) for line in output.splitlines(keepends=True) if line[-1:] == b"\n"]
    errors = [
        _error(reply["line"], "invalid_reference", f"{reply['error']}; {REMEDY}")
        for reply in replies
        if reply["error"]
    ]
    if len(replies) < len(examples):
        if not replies and code == "verifier_failed":
            raise VerifierUnavailableError(
                f"the verifiers do not start ({message}); install vllm-tempo[trainer] on the server"
            )
        errors.append(_error(examples[len(replies)].line, code, message))
    return errors


def _error(line: int, code: str, message: str) -> LineError:
    return LineError(line, code, "reference_answer", message)


def _run(
    command: Sequence[str], examples: Sequence[Example], timeout_seconds: float
) -> tuple[bytes, str, str]:
    """Return the output of the process, and the code and message of its end if it ended early."""
    questions = [
        {"line": e.line, "verifier": e.verifier, "reference": e.reference} for e in examples
    ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    try:
        process = subprocess.run(
            command, input=lines.encode(), capture_output=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        message = f"the verifier did not end within {timeout_seconds:g} s; simplify the reference"
        return expired.stdout or b"", "verifier_timeout", message
    if process.returncode == -signal.SIGALRM:
        message = "the verifier hangs on it; simplify the reference"
        return process.stdout, "verifier_timeout", message
    last = (process.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    message = f"exit status {process.returncode}: {last[:200]}"
    return process.stdout, "verifier_failed", message
