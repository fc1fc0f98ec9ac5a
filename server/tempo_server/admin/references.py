"""Ask the verifiers whether they can read each reference, in a process that can be killed.

The server must not import math-verify: it hangs past its own time-outs. The verifiers' module runs
as a process, and says for one line of input in one line of output what is wrong with it.
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

GROUP = "tempo.verifiers"
# -P: a file in the working directory must not stand in for an installed module.
COMMAND = (sys.executable, "-P", "-m", "tempo_trainer.sampling.verifiers", "check")
# Generous, for a busy machine must not make a reference wrong; a line that hangs ends the process
# by itself after two minutes.
START_SECONDS = 30.0
SECONDS_PER_EXAMPLE = 0.05


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

    A line on which the process hangs or dies is one of them, and ends the check.
    """
    if not examples:
        return []
    timeout = timeout_seconds or START_SECONDS + SECONDS_PER_EXAMPLE * len(examples)
    output, failure = _run(command, examples, timeout)
    replies = [json.loads(line) for line in output.splitlines(keepends=True) if line[-1:] == b"\n"]
    refused = [
        (r["line"], "invalid_reference", f"{r['error']}; correct it or name another verifier")
        for r in replies
        if r["error"]
    ]
    if len(replies) < len(examples):
        code, message = failure
        if not replies and code == "verifier_failed":
            raise VerifierUnavailableError(
                f"the verifiers do not start ({message}); install vllm-tempo[trainer] on the server"
            )
        refused.append((examples[len(replies)].line, code, message))
    return [LineError(line, code, "reference_answer", message) for line, code, message in refused]


def _run(
    command: Sequence[str], examples: Sequence[Example], timeout_seconds: float
) -> tuple[bytes, tuple[str, str]]:
    """Return what the process wrote, and how to call it if that is not everything."""
    questions = [
        {"line": e.line, "verifier": e.verifier, "reference": e.reference} for e in examples
    ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    try:
        done = subprocess.run(
            command, input=lines.encode(), capture_output=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        message = f"the verifier did not end within {timeout_seconds:g} s; simplify the reference"
        return expired.stdout or b"", ("verifier_timeout", message)
    if done.returncode == -signal.SIGALRM:
        return done.stdout, ("verifier_timeout", "the verifier hangs on it; simplify the reference")
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    message = f"exit status {done.returncode}: {last[:200]}"
    return done.stdout, ("verifier_failed", message)
