"""One line of a labeled file: hostile lines are refused, those of known data sets are accepted."""

import time
from typing import Any

import pytest
from labeled_lines import ACCEPTED, GSM8K, MATH, REFUSED, WORKED, line
from labeled_lines import read_line as read
from ledgers import user

from tempo_storage.labeled.refusal import LineRefusedError


@pytest.mark.parametrize(("content", "code"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_line_is_refused_with_a_short_message(content: bytes, code: str) -> None:
    with pytest.raises(LineRefusedError) as refusal:
        # A good line before it: the format of a file is that of its first line.
        read(line() + content.replace(b"6*7?", b"q"))
    assert refusal.value.code == code
    assert len(str(refusal.value)) < 300
    assert len(refusal.value.value) <= 65
    assert any(mark in str(refusal.value) for mark in (";", "give ", "write "))  # a remedy


@pytest.mark.parametrize("row", ACCEPTED.values(), ids=ACCEPTED)
def test_the_rows_of_known_data_sets_are_accepted(row: dict[str, Any]) -> None:
    assert read(row)[0].reference


@pytest.mark.parametrize(
    "text",
    ["\u202e right to left", "\u0440 homoglyph", "👩‍👧 😀", "a\u2028b", "<script>", "'; --"],
)
def test_odd_but_honest_text_is_kept_unchanged(text: str) -> None:
    assert read(line(messages=user(text)))[0].messages == user(text)


@pytest.mark.parametrize("name", ["question", "prompt", "problem"])
@pytest.mark.parametrize("reference", ["answer", "solution", "label", "ground_truth"])
def test_an_alias_is_understood_and_noted(name: str, reference: str) -> None:
    example, notes = read({name: "6*7?", reference: 42})
    assert (example.messages, example.reference) == (user("6*7?"), ["42"])
    assert (example.verifier, example.details) == ("numeric", {})
    unusual = {name, reference} - {"question", "answer"}  # all our pages use these two names
    assert {note.param for note in notes if note.code == "alias"} == unusual


def test_the_first_of_several_names_wins_and_a_prompt_may_be_messages() -> None:
    row = {"prompt": user("q"), "solution": "long", "answer": "2", "level": 3, "id": 7}
    example, notes = read(row | {"metadata": {"level": 4}})
    assert (example.messages, example.reference) == (user("q"), ["2"])
    assert example.details == {"level": 4, "solution": "long", "id": "7"}
    assert {n.param for n in notes if n.code == "unknown_field"} == {"level", "solution"}


@pytest.mark.parametrize(("row", "reference", "verifier"), WORKED)
def test_the_final_answer_of_a_worked_solution_is_the_reference(
    row: dict[str, str], reference: str, verifier: str
) -> None:
    example, notes = read(row)
    assert (example.reference, example.verifier) == ([reference], verifier)
    is_worked = reference not in row.values()
    assert ("worked_solution" in {note.code for note in notes}) is is_worked


def test_the_other_fields_of_a_math_problem_are_kept_as_details() -> None:
    assert read(MATH)[0].details == {"level": "Level 2", "type": "Algebra"}


def test_a_solution_full_of_open_boxes_is_read_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(LineRefusedError):  # the whole solution is too long for a reference
        read(MATH | {"solution": r"\boxed{" * 100_000})
    assert time.monotonic() - started < 2.0


def test_references_may_be_numbers_or_several() -> None:
    assert read(line(reference_answer=[0.5, "1/2", 3]))[0].reference == ["0.5", "1/2", "3"]


@pytest.mark.parametrize("row", [{"question": "q"}, {"question": "q", "answer": None, "": "x"}])
def test_a_question_without_an_answer_is_read_where_none_is_needed(row: dict[str, Any]) -> None:
    example, notes = read(row, needs_reference=False)
    assert (example.messages, example.reference, example.verifier) == (user("q"), [], "math")
    assert [note for note in notes if note.code == "alias"] == []
    assert example.details == {name: row[name] for name in row if name != "question"}


def test_an_answer_is_read_where_none_is_needed() -> None:
    assert read(GSM8K, needs_reference=False) == read(GSM8K)


def test_an_invalid_answer_is_refused_where_none_is_needed() -> None:
    with pytest.raises(LineRefusedError, match="an answer is a text, a number"):
        read(line(reference_answer=[True]), needs_reference=False)


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_prompt_becomes_the_first_message_and_makes_another_question(name: str) -> None:
    plain, _ = read({"question": "6*7?", "answer": "42"})
    example, notes = read({"question": "6*7?", "answer": "42", name: "Think."})
    assert example.messages == [{"role": "system", "content": "Think."}, *user("6*7?")]
    assert example.content_hash != plain.content_hash
    assert example.loose_hash == plain.loose_hash
    assert example.details == {}
    assert (name in {note.param for note in notes}) == (name != "system")


@pytest.mark.parametrize("value", ["", "  ", None])
def test_an_empty_system_prompt_is_none(value: str | None) -> None:
    assert read(line(system=value))[0].messages == user("6*7?")


def test_template_arguments_are_kept_beside_the_metadata() -> None:
    arguments = {"enable_thinking": False, "depth": 2, "style": "short", "none": None}
    example, notes = read(line(chat_template_kwargs=arguments, metadata={"level": 1}))
    assert (example.chat_template_kwargs, example.details) == (arguments, {"level": 1})
    assert notes == []
    assert read(line(chat_template_kwargs=None))[0].chat_template_kwargs == {}
