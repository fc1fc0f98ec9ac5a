"""Verifiers decide whether a response agrees with a reference. They run in child processes only.

An operator's own verifier can hang, so neither worker nor server calls a verifier. A child reads
items as JSON lines until standard input ends, and answers each with one line. `serve` answers with
verdicts on responses; `check` answers with faults of references.

    python -m tempo_trainer.sampling.verifiers serve math exact
    python -m tempo_trainer.sampling.verifiers check

Operators add verifiers of their own through the entry-point group `tempo.verifiers`.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tempo_storage.answers.final_answer import final_answer
from tempo_storage.errors import TempoError
from tempo_storage.failures import hide_messages
from tempo_storage.processes import forbid_core_files
from tempo_trainer.sampling.verifying.choice import Choice
from tempo_trainer.sampling.verifying.contract import Metadata, References, Verdict, Verifier
from tempo_trainer.sampling.verifying.equal_text import FORMS
from tempo_trainer.sampling.verifying.exact import Exact, Words
from tempo_trainer.sampling.verifying.mathematics.math import Math
from tempo_trainer.sampling.verifying.numeric import Numeric
from tempo_trainer.sampling.verifying.reasoning_gym import ReasoningGym
from tempo_trainer.sampling.verifying.structured import JsonEqual, Regex, StringCheck

__all__ = [
    "Choice", "Exact", "JsonEqual", "Math", "Metadata", "Numeric", "ReasoningGym", "References",
    "Regex", "StringCheck", "Verdict", "Verifier", "Words", "answer", "load", "main", "names",
]  # fmt: skip

GROUP = "tempo.verifiers"
MEMORY_BYTES = 2 << 30  # address space, not resident
ORPHAN_SECONDS = 120  # after which a hanging child ends, if no parent is left to kill it
MAX_SHOWN_CHARACTERS = 200
SELF_ACCEPTING = frozenset(FORMS) | {"json_equal"}  # a reference is a right response to itself


class UnknownVerifierError(TempoError, LookupError):
    """No installed package brings a verifier of this name; install one that does."""


def answer(response: str) -> str:
    """Return the final answer of a response: marked, else the last line."""
    return final_answer(response).text


def names() -> list[str]:
    """Return the names of the installed verifiers."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def load(name: str) -> Verifier:
    """Instantiate a verifier; raise UnknownVerifierError, with the installed names, without one.

    The part of the name after a colon goes to the class: `reasoning_gym:chain_sum`.
    """
    name, _, task = name.partition(":")
    for entry in entry_points(group=GROUP, name=name):
        create = entry.load()
        verifier: Verifier = create(task) if task else create()
        return verifier
    raise UnknownVerifierError(f"no verifier {name!r}; installed are {', '.join(names())}")


def main(arguments: Sequence[str]) -> None:
    """Answer each JSON line on standard input with one on standard output, until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    hide_messages()
    forbid_core_files()
    mode, *preload = arguments
    answer_line = {"check": _check, "serve": _verify}[mode]
    load_once = cache(load)
    verifiers = {name: load_once(name) for name in preload}
    # A verifier's own prints go to standard error: nobody must read them as a verdict.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if mode == "serve":
        print(_ready(verifiers), file=replies)
    for text in sys.stdin:
        # The kernel ends a hanging child: Python's own timers do not run in the middle of one
        # long multiplication.
        signal.alarm(ORPHAN_SECONDS)
        print(json.dumps(answer_line(json.loads(text), load_once)), file=replies)
        signal.alarm(0)


def _ready(verifiers: dict[str, Verifier]) -> str:
    """Return `ready`, and the time-outs of verifiers that have one of their own."""
    own = {
        name: float(verifier.timeout_seconds)
        for name, verifier in verifiers.items()
        if hasattr(verifier, "timeout_seconds")
    }
    return f"ready {json.dumps(own)}" if own else "ready"


def _check(line: dict[str, Any], load_once: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        verifier = load_once(line["verifier"])
        if hasattr(verifier, "check_question"):
            error = verifier.check_question(line["reference"], line.get("metadata", {}))
        else:
            error = verifier.check_reference(line["reference"])
        if error is None and verifier.name in SELF_ACCEPTING:
            error = _self_refusal(verifier, line)
    except (Exception, SystemExit) as failure:
        error = f"{type(failure).__name__}: {failure}"[:MAX_SHOWN_CHARACTERS]
    return {"line": line["line"], "error": error}


def _self_refusal(verifier: Verifier, line: dict[str, Any]) -> str | None:
    """Return the fault of a reference that the verifier calls wrong as a response."""
    for one in line["reference"]:
        responses = (one, rf"\boxed{{{one}}}")
        verdicts = [
            verifier.verify(response, line["reference"], line.get("metadata", {}))
            for response in responses
        ]
        if not any(verdict.correct for verdict in verdicts):
            return f"a response {one!r} would be judged wrong"
    return None


def _verify(line: dict[str, Any], load_once: Callable[[str], Verifier]) -> dict[str, Any]:
    try:
        verifier = load_once(line["verifier"])
        verdict = verifier.verify(line["response"], line["reference"], line["metadata"])
    except (Exception, SystemExit) as failure:  # a verifier's own failure is a verdict, no crash
        verdict = Verdict(False, None, _reason(failure), failed=True)
    extracted = verdict.extracted and verdict.extracted[:MAX_SHOWN_CHARACTERS]
    return asdict(replace(verdict, extracted=extracted))


def _reason(failure: BaseException) -> str:
    """Return why there is no verdict, for a log.

    The message of a verifier's own error may quote the response, so only its class is shown.
    """
    return str(failure) if isinstance(failure, UnknownVerifierError) else type(failure).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
