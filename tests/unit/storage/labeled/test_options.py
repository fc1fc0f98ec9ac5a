"""Options of a choice: they are appended to the question, and the answer becomes a letter."""

from string import ascii_uppercase
from typing import Any

import pytest
from labeled_lines import read_line

from tempo_storage.labeled.refusal import LineRefusedError

CITIES = ["Rome", "Paris", "Bonn"]
LISTED = "q\nA. Rome\nB. Paris\nC. Bonn"


def read(**fields: Any) -> tuple[str, list[str], dict[str, Any]]:
    example, _ = read_line({"question": "q"} | fields)
    assert example.verifier == "choice"
    return example.messages[-1]["content"], example.reference, example.details


OPTIONS: dict[str, dict[str, Any]] = {
    "a list": {"options": CITIES},
    "MMLU": {"choices": CITIES},
    "HellaSwag": {"endings": CITIES},
    "ARC": {"choices": {"text": CITIES, "label": ["A", "B", "C"]}},
    "ARC with numbers": {"choices": {"text": CITIES, "label": ["1", "2", "3"]}},
    "objects": {"choices": [{"label": a, "text": t} for a, t in zip("ABC", CITIES, strict=True)]},
    "MedQA": {"options": dict(zip("ABC", CITIES, strict=True))},
    "AQuA": {"options": ["A)Rome", "B)Paris", "C)Bonn"]},
    "MathQA": {"options": "a ) Rome , b ) Paris , c ) Bonn"},
    "lines": {"options": "A. Rome\nB. Paris\nC. Bonn"},
    "columns": dict(zip("ABC", CITIES, strict=True)),
    "MedMCQA": {"opa": "Rome", "opb": "Paris", "opc": "Bonn"},
    "named columns": {"Option A": "Rome", "Option B": "Paris", "Option C": "Bonn"},
    "numbered columns": {"option1": "Rome", "option2": "Paris", "option3": "Bonn"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_every_form_are_appended_with_letters(options: dict[str, Any]) -> None:
    content, reference, details = read(**options, answer="Paris")
    assert (content, reference, details) == (LISTED, ["B"], {"options": CITIES})


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "b", "(B)", "B.", "Paris", " paris.", "B. Paris", "(b) Paris", 1, "1", ["B"]),
        *("Rome is in Italy. The answer is B.", r"So \boxed{B}", "<answer>Paris</answer>"),
    ],
)
def test_a_letter_a_text_or_an_index_names_the_right_option(answer: Any) -> None:
    assert read(options=CITIES, answer=answer)[1] == ["B"]


def test_a_label_of_the_file_counts_before_an_index() -> None:
    options = {"text": CITIES, "label": ["1", "2", "3"]}
    assert read(choices=options, answerKey="2")[1] == ["B"]
    assert read(choices={"text": CITIES, "label": ["C", "B", "A"]}, answerKey="C")[1] == ["A"]


def test_a_number_is_an_index_though_an_option_has_its_text() -> None:
    # The first question of MMLU: the answer 1 is the second option.
    assert read(choices=["0", "4", "2", "6"], answer=1)[1] == ["B"]
    assert read(options=["1", "7", "3"], answer="7")[1] == ["B"]
    assert read(options=[10, 20, 30], answer=20)[1] == ["B"]


@pytest.mark.parametrize(
    "fields",
    [
        {"options": [2, 1, 0], "answer": 2},
        {"options": ["B", "A"], "answer": "A"},
        {"options": ["x", "x"], "answer": "x"},
        {"options": CITIES, "answer": "Berlin"},
        {"options": CITIES, "answer": 3},
        {"options": CITIES, "answer": -1},
        {"options": CITIES, "answer": True},
        {"options": CITIES, "answer": ["A", "B"]},
        {"option1": "Rome", "option2": "Paris", "option3": "Bonn", "answer": 1},
    ],
)
def test_an_answer_that_names_no_option_or_several_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LineRefusedError, match="letter") as refusal:
        read(**fields)
    assert (refusal.value.code, refusal.value.param) == ("invalid_reference", "answer")


@pytest.mark.parametrize("options", [["x"], ["x"] * 27, [["x"], ["y"]], "x or y", {"A": None}])
def test_options_that_cannot_be_read_are_refused(options: Any) -> None:
    with pytest.raises(LineRefusedError) as refusal:
        read(options=options, answer="A")
    assert (refusal.value.code, refusal.value.param) == ("invalid_options", "options")


def test_twenty_six_options_have_letters() -> None:
    texts = [f"text {n}" for n in range(26)]
    content, reference, _ = read(options=texts, answer="text 25")
    assert reference == ["Z"]
    assert content.count("\n") == len(ascii_uppercase)


@pytest.mark.parametrize("form", ["A. Rome\nB. Paris\nC. Bonn", "(A) Rome (B) Paris (C) Bonn"])
def test_options_that_the_question_lists_are_not_appended(form: str) -> None:
    example, _ = read_line({"question": f"Which? {form}", "options": CITIES, "answer": "C"})
    assert example.messages[-1]["content"] == f"Which? {form}"


def test_options_of_a_chat_are_part_of_its_last_message() -> None:
    chat = [{"role": "system", "content": "Think."}, {"role": "user", "content": "q"}]
    example, notes = read_line({"messages": chat, "options": CITIES, "answer": "B"})
    assert example.messages == [chat[0], {"role": "user", "content": LISTED}]
    assert "options" in {note.code for note in notes}


def test_another_verifier_gets_the_reference_as_it_is() -> None:
    fields = {"question": "q", "options": CITIES, "answer": "Paris", "verifier": "exact"}
    example, _ = read_line(fields)
    assert (example.reference, example.verifier) == (["Paris"], "exact")
    assert example.messages[-1]["content"] == LISTED


def test_variables_of_a_problem_are_no_options() -> None:
    example, _ = read_line({"question": "a + b?", "a": 3, "b": 4, "answer": 7})
    assert (example.messages[-1]["content"], example.reference) == ("a + b?", ["7"])
