"""A labeled file: it is used whole or not at all, and each error names its lines."""

import time
from dataclasses import replace
from typing import Any

import pytest
from labeled_lines import VERIFIERS, line
from ledgers import user

from tempo_storage.errors import TooLargeError
from tempo_storage.labeled.file import (
    LabeledFileError,
    LineError,
    ParsedFile,
    parse,
    raise_if_unusable,
    reconcile,
)
from tempo_storage.labeled.formats import BOM
from tempo_storage.question_hash import content_hash, loose_hash

NOT_JSON = (
    "not JSON (expecting value at character 1); write one object on a line;"
    " CSV begins with a header such as question,answer"
)
NO_QUESTION = "messages: no question (fields: answer); add 'question'"


def read(content: bytes) -> ParsedFile:
    return parse(content, VERIFIERS)


def questions(count: int) -> bytes:
    return b"".join(line(messages=user(f"question {n}")) for n in range(count))


def warnings(file: ParsedFile) -> list[dict[str, Any]]:
    """Return the warnings of the summary without their messages."""
    listed: list[dict[str, Any]] = file.summary()["warnings"]
    return [{k: w[k] for k in ("code", "line", "count")} for w in listed]


def listing(content: bytes) -> list[str]:
    """Return the message about a file, without its first line, which counts the errors."""
    with pytest.raises(LabeledFileError) as refusal:
        raise_if_unusable(read(content))
    return str(refusal.value).splitlines()[1:]


def test_a_refused_line_is_named_by_its_number() -> None:
    file = read(b"\n" + b"x\n" + line())
    assert [(e.line, e.code, e.message) for e in file.errors] == [(2, "invalid_json", NOT_JSON)]
    with pytest.raises(LabeledFileError, match="lines that cannot be used: 1; nothing was stored"):
        raise_if_unusable(file)


def test_an_error_of_many_lines_is_listed_once_with_all_of_them() -> None:
    no_question = b'{"answer": "1"}\n'
    content = line() * 2 + b"x\n" * 478 + line() * 31 + b"x\n" + no_question
    assert listing(content) == [f"lines 3-480, 512: x: {NOT_JSON}", f"line 513: {NO_QUESTION}"]


def test_errors_and_scattered_lines_are_listed_up_to_a_bound() -> None:
    assert listing((b"x\n" + line()) * 12) == [
        f"lines 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 2 more: x: {NOT_JSON}"
    ]
    various = b"".join(b"{" + b" " * n + b"x\n" for n in range(23))
    assert (len(listing(various)), listing(various)[-1]) == (21, "and 3 other errors")


def test_errors_of_a_later_step_are_listed_with_those_of_the_lines() -> None:
    file = read(b"x\n" + line())
    error = LineError(2, "invalid_reference", None, "no number")
    with pytest.raises(LabeledFileError) as refusal:
        raise_if_unusable(replace(file, errors=(error, *file.errors)))
    assert [error.line for error in refusal.value.errors] == [1, 2]
    assert str(refusal.value).splitlines()[1:] == [f"line 1: x: {NOT_JSON}", "line 2: no number"]


def test_byte_order_mark_crlf_and_blank_lines_are_understood() -> None:
    file = read(BOM + b"\r\n" + line().replace(b"\n", b"\r\n") + b"   \n" + line(question=1))
    assert file.errors == ()
    assert [example.line for example in file.examples] == [2]


def test_a_last_line_without_line_end_counts() -> None:
    assert [example.reference for example in read(line().strip()).examples] == [["42"]]


def test_a_repeated_question_is_kept_once() -> None:
    file = read(line() + line(messages=user(" 6*７?\n")) + line())
    assert (len(file.examples), file.summary()["duplicates"], file.errors) == (1, 2, ())
    assert warnings(file) == [{"code": "duplicate", "line": 2, "count": 2}]


def test_a_repeated_question_with_another_reference_is_refused() -> None:
    file = read(line() + line(reference_answer="43"))
    assert [(e.line, e.code) for e in file.errors] == [(2, "conflicting_reference")]
    assert "line 1 has this question with another reference" in file.errors[0].message


def test_a_repeated_question_with_an_equal_number_is_kept_once() -> None:
    file = read(line() + line(reference_answer="42.0"))
    assert (len(file.examples), file.errors) == (1, ())
    exact = read(line(verifier="exact") + line(reference_answer="42.0", verifier="exact"))
    assert [(e.line, e.code) for e in exact.errors] == [(2, "conflicting_reference")]


def test_a_repeated_question_without_an_answer_is_no_conflict() -> None:
    content = b'{"question": "6*7?"}\n' + line()
    file = parse(content, VERIFIERS, needs_reference=False)
    assert [example.reference for example in file.examples] == [[]]
    assert file.errors == ()


def test_an_example_that_the_ledger_has_is_a_duplicate_or_a_conflict() -> None:
    file = read(questions(3))
    stored = {content_hash(user("question 0")): ["42"], content_hash(user("question 1")): ["43"]}
    reconciled = reconcile(file, stored, asked_hashes=())
    assert [example.line for example in reconciled.examples] == [3]
    assert [(e.line, e.code) for e in reconciled.errors] == [(2, "conflicting_reference")]
    assert "an earlier file has this question" in reconciled.errors[0].message
    assert reconciled.summary()["duplicates"] == 1
    assert (file.errors, len(file.examples)) == ((), 3)  # the parsed file has not changed


def test_the_summary_counts_what_is_new_and_says_what_users_asked() -> None:
    asked = {loose_hash(user("question 2")), loose_hash(user("question 3"))}
    stored = {content_hash(user("question 3")): ["42"]}
    file = reconcile(read(questions(4) + line(messages=user("question 0"))), stored, asked)
    summary = file.summary()
    assert (summary["examples"], summary["duplicates"]) == (3, 2)
    assert warnings(file) == [
        {"code": "duplicate", "line": 5, "count": 2},
        {"code": "asked", "line": 3, "count": 1},
    ]


def test_a_million_empty_lines_are_refused_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(TooLargeError):
        read(b"\n" * 1_000_000)
    assert time.monotonic() - started < 1.0


def test_twenty_thousand_lines_are_accepted_and_no_more() -> None:
    assert read(b"\n" * 20_000).errors == ()
    with pytest.raises(TooLargeError, match=r"more than 20,000 lines or 32 MiB; split it"):
        read(b"\n" * 20_000 + b"x")


def test_a_file_of_one_endless_line_is_refused() -> None:
    with pytest.raises(TooLargeError):
        read(b" " * (33 << 20))


def test_a_file_needs_eight_questions_though_the_ledger_may_have_them() -> None:
    stored = {content_hash(user("question 0")): ["42"]}
    raise_if_unusable(reconcile(read(questions(8)), stored, asked_hashes=()), min_questions=8)
    with pytest.raises(LabeledFileError, match="7 distinct questions are too few") as refusal:
        raise_if_unusable(read(questions(7)), min_questions=8)
    assert refusal.value.errors == []
