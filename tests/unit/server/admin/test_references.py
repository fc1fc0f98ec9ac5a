"""References are checked by their verifiers in a process that may hang or die."""

import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from ledgers import user

from tempo_server.admin import references
from tempo_server.errors import VerifierUnavailableError
from tempo_storage.labeled.line import Example


def examples(*references_of: tuple[str, str]) -> list[Example]:
    """Return an example for each pair of a verifier and a reference."""
    return [
        Example(n, user(f"q{n}"), [reference], verifier, {}, "0" * 64, "0" * 64, {})
        for n, (verifier, reference) in enumerate(references_of, start=1)
    ]


def answering(script: str) -> list[str]:
    """Return a command that runs `script` for each line; `line` is what it reads."""
    loop = f"for text in sys.stdin:\n line = json.loads(text)\n {script}"
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{loop}"]


REPLY = "print(json.dumps({'line': line['line'], 'error': None}), flush=True)"
VERDICT = "print(json.dumps({'correct': True}), flush=True)"


def test_the_real_verifiers_read_real_references() -> None:
    pairs = ("exact", "a"), ("numeric", "12"), ("numeric", "none"), ("math", "\\frac12")
    errors = references.check(examples(*pairs))
    assert [(e.line, e.code, e.param) for e in errors] == [
        (3, "invalid_reference", "reference_answer")
    ]
    assert {"math", "exact", "numeric"} <= references.installed()


def test_the_admin_api_loads_no_verifier_and_no_deep_learning() -> None:
    heavy = ["math_verify", "sympy", "tempo_trainer", "tempo_client", "torch", "vllm"]
    script = f"import sys, tempo_server.admin; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert process.stdout.strip() == "[]"


def test_a_reference_on_which_the_process_hangs_is_named_and_the_process_is_killed() -> None:
    hang = answering(f"time.sleep(60) if line['line'] == 3 else {REPLY}")
    started = time.monotonic()
    errors = references.check(examples(*[("math", "1")] * 5), command=hang, timeout_seconds=1.0)
    assert [(e.line, e.code) for e in errors] == [(3, "verifier_timeout")]
    assert time.monotonic() - started < 10.0


def test_a_reply_that_is_no_json_costs_one_reference() -> None:
    garbage = answering(f"print('oh', flush=True) if line['line'] == 2 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 4), command=garbage)
    assert [(e.line, e.code) for e in errors] == [(2, "verifier_failed")]


def test_a_reference_on_which_the_process_hangs_costs_the_others_nothing() -> None:
    error = "'cannot read it' if line['line'] == 5 else None"
    reply = f"print(json.dumps({{'line': line['line'], 'error': {error}}}), flush=True)"
    hang = answering(f"time.sleep(60) if line['line'] in (2, 4) else {reply}")
    errors = references.check(examples(*[("math", "1")] * 6), command=hang, timeout_seconds=1.0)
    assert [(e.line, e.code) for e in errors] == [
        (2, "verifier_timeout"),
        (4, "verifier_timeout"),
        (5, "invalid_reference"),
    ]


def test_a_check_ends_after_ten_references_on_which_the_process_dies() -> None:
    die = answering(f"os._exit(9) if line['line'] > 1 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 100), command=die)
    assert [e.line for e in errors] == list(range(2, 12))


def test_the_metadata_of_a_line_is_checked_by_its_verifier() -> None:
    [example] = examples(("numeric", "7"))
    [error] = references.check([replace(example, details={"tolerance": "5%"})])
    assert "metadata.tolerance is '5%'; give a number" in error.message
    assert error.param == "metadata.tolerance"


def test_a_reference_whose_alarm_ends_the_process_is_named() -> None:
    alarmed = answering(f"signal.raise_signal(14) if line['line'] == 2 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 3), command=alarmed)
    assert [(e.line, e.code) for e in errors] == [(2, "verifier_timeout")]


def test_a_reference_that_kills_its_process_is_named() -> None:
    die = answering(f"os._exit(9) if line['line'] == 2 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 3), command=die)
    assert [(e.line, e.code) for e in errors] == [(2, "verifier_failed")]


def test_verifiers_that_do_not_start_are_the_server_s_fault() -> None:
    command = [sys.executable, "-c", "import no_such_module"]
    with pytest.raises(VerifierUnavailableError, match="no_such_module"):
        references.check(examples(("math", "1")), command=command)


def item(response: str, verifier: str = "exact") -> dict[str, Any]:
    return {"verifier": verifier, "response": response, "reference": ["a"], "metadata": {}}


def test_responses_are_verified_in_their_order() -> None:
    verdicts = references.verify([item("a"), item("b"), item("a", "words"), item("a", "none")])
    assert [verdict and verdict["correct"] for verdict in verdicts] == [True, False, True, False]
    assert references.verify([]) == []


def test_a_response_on_which_the_verifier_hangs_or_dies_has_no_verdict() -> None:
    first = "line.get('response') == 'die' and os._exit(9)"
    hang = answering(f"{first} or time.sleep(60 * (line['response'] == 'hang')); {VERDICT}")
    hang[2] = hang[2].replace("for text", "print('ready', flush=True)\nfor text")
    items = [item(text) for text in ("a", "hang", "die", "a")]
    assert references.verify(items, command=hang, timeout_seconds=0.5) == [
        {"correct": True},
        None,
        None,
        {"correct": True},
    ]
    dying = [item("die")] * 12 + [item("a")]
    assert references.verify(dying, command=hang) == [None] * 13  # ten of them are enough


def test_no_response_is_verified_if_the_verifiers_do_not_start() -> None:
    with pytest.raises(VerifierUnavailableError, match="no_such_module"):
        references.verify([item("a")], command=[sys.executable, "-c", "import no_such_module"])
