"""Rows of public data sets, in their own fields: question, reference and verifier of each."""

from pathlib import Path
from typing import Any

import pytest
from data_sets import ASSISTANT, ROWS
from labeled_lines import read_line
from ledgers import user

from tempo_storage.labeled.fields import TABLE, Record, markdown
from tempo_storage.labeled.refusal import LineRefusedError


@pytest.mark.parametrize(("row", "question", "reference", "verifier"), ROWS.values(), ids=ROWS)
def test_a_row_of_a_public_data_set_is_read_as_it_is_meant(
    row: dict[str, Any], question: str, reference: list[str], verifier: str
) -> None:
    example, _ = read_line(row)
    assert example.messages == user(question)
    assert (example.reference, example.verifier) == (reference, verifier)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "SQuAD without an answer": (
        {"question": "q", "answers": {"text": [], "answer_start": []}},
        "answers",
        "accepted answers",
    ),
    "KTO": ({"prompt": "q", "completion": "a", "label": True}, "label", "a text, a number"),
    "Orca-Math": ({"question": "q", "answer": "We add. " * 30}, "answer", "final answer"),
    "HotpotQA": (
        {"question": "q", "answer": "a", "context": {"title": ["t"], "sentences": [["s"]]}},
        "context",
        "a context is a text",
    ),
    "BoolQ with a number": ({"question": "q", "passage": "p", "label": 1}, "label", "no options"),
    "Social IQa": (
        {"question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "1"},
        "label",
        "no options",
    ),
    "CosmosQA": (
        {"question": "q", "answer0": "x", "answer1": "y", "label": 1},
        "label",
        "no options",
    ),
    "Eurus 2, a program": (
        {"prompt": "q", "reward_model": {"ground_truth": '{"inputs": ["4"], "outputs": ["1"]}'}},
        "reward_model.ground_truth",
        "tests, but no answer",
    ),
    "Tulu 3, instructions": (
        {"messages": user("q"), "ground_truth": {"func_name": "validate", "N": 3}},
        "ground_truth",
        "tests, but no answer",
    ),
    "DROP, two spans": (
        {"question": "q", "answers_spans": {"spans": ["x", "y"], "types": ["span", "span"]}},
        "answers_spans",
        "as one text",
    ),
    "Orca-Math, two sentences": (
        {"question": "q", "answer": "If we add 1 and 2, the total is 3. So she has 3 apples."},
        "answer",
        "final answer",
    ),
    "TAT-QA": (
        {"question": "q", "answer": "5", "table": [["x", "1"]]},
        "table",
        "a context is a text",
    ),
    "MathVista": (
        {"question": "q", "answer": "7", "decoded_image": {"bytes": "400 bytes"}},
        "decoded_image",
        "picture",
    ),
    "OlympiadBench with pictures": (
        {"question": "q", "final_answer": ["7"], "image_1": "x.png", "image_2": None},
        "image_1",
        "picture",
    ),
    "a question with tools": ({"question": "q", "answer": "7", "tools": [{}]}, "tools", "tools"),
    "a picture in a message": (
        {"messages": user([{"type": "image_url", "image_url": {"url": "x"}}]), "answer": "7"},
        "messages.content",
        "pictures",
    ),
    "NuminaMath": ({"problem": "q", "answer": "notfound"}, "answer", "remove the line"),
    "a table in columns": (
        {"question": ["a", "b"], "answer": ["1", "2"]},
        "question",
        "messages|role",
    ),
}


@pytest.mark.parametrize(("row", "param", "message"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_be_used_is_refused_with_its_own_field_and_value(
    row: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(LineRefusedError, match=message) as refusal:
        read_line(row)
    assert refusal.value.param == param
    assert refusal.value.value != ""


def test_a_named_verifier_may_take_any_text() -> None:
    for text in ("proof", "We add. " * 30):
        assert read_line({"question": "q", "answer": text, "verifier": "exact"})[0].reference == [
            text
        ]


def test_a_number_under_label_is_an_answer_if_the_line_names_its_verifier() -> None:
    example, _ = read_line({"question": "q", "label": 1, "verifier": "numeric"})
    assert example.reference == ["1"]


def test_metadata_in_the_form_of_python_is_kept_as_text() -> None:
    metadata = "{'topic': 'Art', 'urls': ['x']}"  # SimpleQA
    example, _ = read_line({"problem": "q", "answer": "Rome", "metadata": metadata})
    assert example.details == {"metadata": metadata}


def test_a_long_text_that_the_question_may_need_is_noted() -> None:
    row = {"question": "q", "answer": "7", "hints": "x" * 201, "level": "easy"}
    notes = {note.param: note.message for note in read_line(row)[1]}
    assert notes == {
        "hints": "'hints' is kept under metadata; if the question needs this text, name it"
        " 'context'",
        "level": "'level' is kept under metadata",
    }


def test_a_context_of_a_chat_is_metadata() -> None:
    example, _ = read_line({"messages": user("q"), "answer": "7", "context": "c"})
    assert (example.messages, example.details) == (user("q"), {"context": "c"})


def test_system_and_developer_messages_are_joined() -> None:
    chat = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *user("q")]
    example, notes = read_line({"messages": chat, "answer": "7"})
    assert example.messages == [{"role": "system", "content": "a\n\nb"}, *user("q")]
    assert "developer_role" in {note.code for note in notes}


def test_earlier_turns_stay_and_an_answer_beside_the_chat_counts_first() -> None:
    chat = [*user("hi"), {"role": "assistant", "content": "hello"}, *user("q"), ASSISTANT]
    example, _ = read_line({"messages": chat, "answer": "8"})
    assert (example.messages, example.reference) == (chat[:3], ["8"])


@pytest.mark.parametrize("field", TABLE, ids=lambda field: field.name)
def test_each_alias_is_found_in_any_spelling(field: Any) -> None:
    for alias in field.aliases:
        top, _, entry = alias.partition(".")
        for name in {top, top.upper(), top.replace("_", " ").title(), top.replace("_", "")}:
            record = Record({name: {entry: "x"} if entry else "x"})
            entry_of_field = record.find(field)
            assert entry_of_field is not None
            assert (entry_of_field.value, entry_of_field.alias) == ("x", alias)


def test_no_alias_stands_twice_for_one_field() -> None:
    for field in TABLE:
        assert len(set(field.aliases)) == len(field.aliases)


def test_the_page_has_the_table_of_all_aliases() -> None:
    page = Path(__file__).parents[4] / "clients" / "docs" / "labeled_file.md"
    assert markdown() in page.read_text(), "python -m tempo_storage.labeled.fields"
