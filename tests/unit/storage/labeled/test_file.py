"""Labeled files, the hostile ones above all."""

import io
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from tempo_server.admin import references
from tempo_server.errors import VerifierUnavailableError
from tempo_storage.errors import TooLargeError
from tempo_storage.labeled.file import BOM, Labeled, LabeledFileError, parse
from tempo_storage.labeled.line import Example

VERIFIERS = ("math", "exact")
GOOD = {"messages": [{"role": "user", "content": "6*7?"}], "reference_answer": "42"}


def read(content: bytes) -> Labeled:
    return parse(io.BytesIO(content), VERIFIERS)


def line(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode() + b"\n"


def only(content: bytes) -> Example:
    labeled = read(content)
    assert labeled.errors == []
    (example,) = labeled.examples.values()
    return example


def codes(labeled: Labeled) -> set[str]:
    return {note.code for note in labeled.warnings} - {"few_examples"}


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "utf-16": ('{"a": 1}'.encode("utf-16"), "invalid_utf8"),
    "utf-16 without mark": ('{"a": 1}'.encode("utf-16-le"), "invalid_json"),
    "latin-1": ('{"question": "é"}'.encode("latin-1"), "invalid_utf8"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "invalid_utf8"),
    "zip": (b"PK\x03\x04", "invalid_json"),
    "csv": (b"question,answer", "invalid_json"),
    "html": (b"<html></html>", "invalid_json"),
    "an array": (b"[1, 2]", "invalid_json"),
    "a number": (b"7", "invalid_json"),
    "two objects": (b"{} {}", "invalid_json"),
    "old mac line ends": (line().strip() + b"\r" + line().strip(), "invalid_json"),
    "a huge integer": (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "invalid_json"),
    "NaN": (b'{"question": "q", "answer": NaN}', "invalid_number"),
    "infinity": (b'{"question": "q", "answer": -Infinity}', "invalid_number"),
    "a float that overflows": (b'{"question": "q", "answer": 1e999}', "invalid_number"),
    "a key twice": (b'{"question": "q", "answer": 1, "answer": 2}', "duplicate_key"),
    "a key twice inside": (b'{"metadata": {"a": 1, "a": 2}}', "duplicate_key"),
    "a lone surrogate": (b'{"question": "\\ud800", "answer": 1}', "lone_surrogate"),
    "a lone surrogate as key": (b'{"\\udfff": 1}', "lone_surrogate"),
    "NUL": (b'{"question": "a\\u0000b", "answer": 1}', "nul_character"),
    "deep": (nested(20), "too_deep"),
    "abyssal": (nested(100_000), "too_deep"),
    "a megabyte": (line(metadata={"x": "y" * (1 << 20)}), "line_too_long"),
    "no question": (b'{"answer": 1}', "missing_messages"),
    "no reference": (b'{"question": "q"}', "missing_reference"),
    "no messages": (line(messages=[]), "invalid_messages"),
    "too many messages": (line(messages=user("q") * 33), "invalid_messages"),
    "a message that is text": (line(messages=["q"]), "invalid_messages"),
    "a message with a name": (
        line(messages=[user("q")[0] | {"name": "eve"}]),
        "invalid_messages",
    ),
    "a tool's message": (line(messages=[{"role": "tool", "content": "x"}]), "invalid_messages"),
    "a role that is a list": (line(messages=[{"role": [], "content": "x"}]), "invalid_messages"),
    "an image": (line(messages=user([{"type": "image_url"}])), "invalid_messages"),
    "an assistant's last word": (
        line(messages=[*user("q"), {"role": "assistant", "content": "a"}]),
        "invalid_messages",
    ),
    "an empty question": (line(messages=user("  ")), "invalid_messages"),
    "a long question": (line(messages=user("x" * 32_769)), "invalid_messages"),
    "an empty reference": (line(reference_answer=" "), "invalid_reference"),
    "a long reference": (line(reference_answer="1" * 2049), "invalid_reference"),
    "a truth": (line(reference_answer=True), "invalid_reference"),
    "an object": (line(reference_answer={"a": 1}), "invalid_reference"),
    "no accepted answer": (line(reference_answer=[]), "invalid_reference"),
    "a list in a list": (line(reference_answer=[["42"]]), "invalid_reference"),
    "an unknown verifier": (line(verifier="judge"), "unknown_verifier"),
    "a verifier that is a list": (line(verifier=["math"]), "unknown_verifier"),
    "metadata that is text": (line(metadata="x"), "invalid_metadata"),
}


@pytest.mark.parametrize(("content", "code"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_lines_are_refused_by_number(content: bytes, code: str) -> None:
    labeled = read(b"\n" + content + b"\n" + line())
    assert (labeled.errors[0].line, labeled.errors[0].code) == (2, code)
    assert len(labeled.errors[0].message) < 300
    with pytest.raises(LabeledFileError):
        labeled.raise_errors()


def told(content: bytes) -> list[str]:
    """Return what a person is told about a file, after the first line, which counts."""
    with pytest.raises(LabeledFileError) as refused:
        read(content).raise_errors()
    return str(refused.value).splitlines()[1:]


NOT_JSON = "not JSON (Expecting value: line 1 column 1 (char 0)); write one object a line"
NO_QUESTION = "no 'messages'; add it"


def test_a_fault_of_many_lines_is_told_once_with_all_of_them() -> None:
    bad, question = b"x\n", b'{"answer": "1"}\n'
    content = line() * 2 + bad * 478 + line() * 31 + bad + question
    assert told(content) == [f"lines 3-480, 512: {NOT_JSON}", f"line 513: {NO_QUESTION}"]


def test_faults_and_scattered_lines_are_told_up_to_a_bound() -> None:
    assert told((b"x\n" + line()) * 12) == [
        f"lines 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 2 more: {NOT_JSON}"
    ]
    various = b"".join(b"{" + b" " * n + b"x\n" for n in range(23))
    assert (len(told(various)), told(various)[-1]) == (21, "and 3 other faults")


ODD = (
    "\u202e right to left",
    "\u0440 homoglyph",
    "👩‍👧 😀",
    "a\u2028b",
    "<script>",
    "'; --",
)


@pytest.mark.parametrize("text", ODD)
def test_odd_but_honest_text_is_kept_as_it_is(text: str) -> None:
    assert only(line(messages=user(text))).messages[0]["content"] == text


def test_byte_order_mark_crlf_and_blank_lines_are_understood() -> None:
    labeled = read(BOM + b"\r\n" + line().replace(b"\n", b"\r\n") + b"   \n" + line(question=1))
    assert labeled.errors == []
    assert "byte_order_mark" in codes(labeled)
    assert [e.line for e in labeled.examples.values()] == [2]


def test_a_last_line_without_line_end_counts() -> None:
    assert only(line().strip()).reference == ["42"]


@pytest.mark.parametrize("name", ["question", "prompt", "problem"])
@pytest.mark.parametrize("reference", ["answer", "solution", "label", "ground_truth"])
def test_aliases_are_understood_and_said(name: str, reference: str) -> None:
    labeled = read(json.dumps({name: "6*7?", reference: 42}).encode())
    (example,) = labeled.examples.values()
    assert (example.messages, example.reference) == (user("6*7?"), ["42"])
    assert (example.verifier, example.details) == ("math", {})
    assert {note.param for note in labeled.warnings if note.code == "alias"} == {name, reference}


def test_a_prompt_may_be_messages_and_the_first_name_wins() -> None:
    row = {"prompt": user("q"), "solution": "long", "answer": "2", "level": 3, "id": 7}
    labeled = read(json.dumps(row | {"metadata": {"level": 4}}).encode())
    (example,) = labeled.examples.values()
    assert (example.messages, example.reference) == (user("q"), ["2"])
    assert example.details == {"level": 4, "solution": "long", "id": "7"}
    assert {n.param for n in labeled.warnings if n.code == "unknown_field"} == {"level", "solution"}


GSM8K = {"question": "How many clips?", "answer": "48/2 = <<48/2=24>>24.\n48+24 = 72.\n#### 72"}
MATH = {
    "problem": "What is $1/2+1/4$?",
    "level": "Level 2",
    "type": "Algebra",
    "solution": r"As $\frac24+\frac14$, it is $\boxed{\frac{3}{4}}$.",
}
WORKED = (
    (GSM8K, "72", "numeric"),
    (GSM8K | {"answer": "so\n#### -1,234.5"}, "-1,234.5", "numeric"),
    (GSM8K | {"answer": "so\n#### x + 1"}, "x + 1", "math"),
    (GSM8K | {"verifier": "exact"}, "72", "exact"),
    (MATH, r"\frac{3}{4}", "math"),
    (MATH | {"answer": "0.75"}, "0.75", "math"),  # MATH-500
    (MATH | {"solution": "x" * 9000 + r"\boxed{7}"}, "7", "math"),
    (MATH | {"solution": r"\boxed{7"}, r"\boxed{7", "math"),
    ({"question": "q", "reference_answer": "a #### b"}, "a #### b", "math"),
)


@pytest.mark.parametrize(("row", "reference", "verifier"), WORKED)
def test_gsm8k_and_math_are_read_as_they_are(
    row: dict[str, str], reference: str, verifier: str
) -> None:
    labeled = parse(io.BytesIO(json.dumps(row).encode()), (*VERIFIERS, "numeric"))
    assert labeled.errors == []
    (example,) = labeled.examples.values()
    assert (example.reference, example.verifier) == ([reference], verifier)
    worked = reference not in row.values()
    assert ("worked_solution" in codes(labeled)) is worked


def test_what_math_says_of_a_problem_is_kept_beside_it() -> None:
    labeled = read(json.dumps(MATH).encode())
    (example,) = labeled.examples.values()
    assert example.details == {"level": "Level 2", "type": "Algebra"}


def test_a_solution_full_of_open_boxes_is_read_quickly() -> None:
    started = time.monotonic()
    read(json.dumps(MATH | {"solution": r"\boxed{" * 100_000}).encode())
    assert time.monotonic() - started < 2.0


def test_references_may_be_numbers_or_several() -> None:
    assert only(line(reference_answer=[0.5, "1/2", 3])).reference == ["0.5", "1/2", "3"]


def test_a_repeated_question_is_kept_once() -> None:
    labeled = read(line() + line(messages=user(" 6*７? ")) + line())
    assert (len(labeled.examples), labeled.duplicates, labeled.errors) == (1, 2, [])
    assert labeled.summary()["warnings"][0] | {"message": ""} == {
        "code": "duplicate",
        "param": None,
        "message": "",
        "line": 2,
        "count": 2,
    }


def test_a_repeated_question_with_another_reference_is_refused() -> None:
    labeled = read(line() + line(reference_answer="43"))
    assert [(e.line, e.code) for e in labeled.errors] == [(2, "conflicting_reference")]
    assert "line 1" in labeled.errors[0].message


def test_a_million_empty_lines_are_refused_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(TooLargeError):
        read(b"\n" * 1_000_000)
    assert time.monotonic() - started < 1.0


def test_a_file_of_one_endless_line_is_refused() -> None:
    with pytest.raises(TooLargeError):
        read(b" " * (33 << 20))


def test_eight_questions_are_the_least() -> None:
    lines = [line(messages=user(f"question {n}")) for n in range(8)]
    read(b"".join(lines)).raise_if_few()
    with pytest.raises(LabeledFileError, match="7 distinct questions are too few"):
        read(b"".join(lines[:7])).raise_if_few()


# References, by a process of its own -------------------------------------------------------------


def examples(*given: tuple[str, str]) -> list[Example]:
    return [
        Example(n, user(f"q{n}"), [reference], verifier, {}, "0" * 64)
        for n, (verifier, reference) in enumerate(given, start=1)
    ]


def answering(script: str) -> list[str]:
    """Return a command that runs `script` for each line; `line` is what it reads."""
    loop = f"for text in sys.stdin:\n line = json.loads(text)\n {script}"
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{loop}"]


REPLY = "print(json.dumps({'line': line['line'], 'error': None}), flush=True)"


def test_the_real_verifiers_read_real_references() -> None:
    given = examples(("exact", "a"), ("numeric", "12"), ("numeric", "none"), ("math", "\\frac12"))
    errors = references.check(given)
    assert [(e.line, e.code, e.param) for e in errors] == [
        (3, "invalid_reference", "reference_answer")
    ]
    assert {"math", "exact", "numeric"} <= references.installed()


def test_the_admin_api_loads_no_verifier_and_no_deep_learning() -> None:
    heavy = ["math_verify", "sympy", "tempo_trainer", "tempo_client", "torch", "vllm"]
    script = f"import sys, tempo_server.admin; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_reference_that_hangs_is_named_and_its_process_killed() -> None:
    hang = answering(f"time.sleep(60) if line['line'] == 3 else {REPLY}")
    started = time.monotonic()
    errors = references.check(examples(*[("math", "1")] * 5), command=hang, timeout_seconds=1.0)
    assert [(e.line, e.code) for e in errors] == [(3, "verifier_timeout")]
    assert time.monotonic() - started < 10.0
    alarmed = answering(f"signal.raise_signal(14) if line['line'] == 2 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 3), command=alarmed)
    assert [(e.line, e.code) for e in errors] == [(2, "verifier_timeout")]


def test_a_reference_that_kills_its_process_is_named() -> None:
    die = answering(f"os._exit(9) if line['line'] == 2 else {REPLY}")
    errors = references.check(examples(*[("math", "1")] * 3), command=die)
    assert [(e.line, e.code) for e in errors] == [(2, "verifier_failed")]


def test_verifiers_that_do_not_start_are_the_servers_fault() -> None:
    command = [sys.executable, "-c", "import no_such_module"]
    with pytest.raises(VerifierUnavailableError, match="no_such_module"):
        references.check(examples(("math", "1")), command=command)
