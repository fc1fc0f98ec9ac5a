"""Files as public data sets and bug reports have them: each is read as it is meant, or refused."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from labeled_lines import VERIFIERS
from ledgers import user

from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled.file import LineError, ParsedFile, parse

FILES = Path(__file__).parent / "files"
NUMBERS = range(3, 13)  # each file asks for the sums 3 + 4, 4 + 5, …, 12 + 13
SUMS = [str(2 * n + 1) for n in NUMBERS]
QUESTIONS = [f"Compute {n} plus {n + 1}." for n in NUMBERS]


def read(name: str) -> ParsedFile:
    return parse((FILES / name).read_bytes(), VERIFIERS)


def contents(file: ParsedFile) -> list[str]:
    return [example.messages[-1]["content"] for example in file.examples]


def references(file: ParsedFile) -> list[list[str]]:
    return [example.reference for example in file.examples]


PLAIN = [
    *("array.json", "bigmath.jsonl", "bom.jsonl", "concat.jsonl", "crlf.jsonl", "dapo.jsonl"),
    *("emptyanswer.jsonl", "gsm_nomark.jsonl", "numina_cot.jsonl", "olympiadbench.jsonl"),
    *("rft_developer.jsonl", "rft_dict.jsonl", "rft_parts.jsonl", "sft.jsonl"),
    *("trailing_comma.jsonl", "trl.jsonl", "utf16.jsonl", "verl.jsonl", "xml_answer.jsonl"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_file_of_sums_is_ten_questions_with_numbers_as_answers(name: str) -> None:
    file = read(name)
    assert file.errors == ()
    assert contents(file) == QUESTIONS
    assert references(file) == [[one] for one in SUMS]
    assert {example.verifier for example in file.examples} == {"numeric"}


@pytest.mark.parametrize(
    ("name", "system"), [("trl.jsonl", "Think."), ("rft_developer.jsonl", "Solve.")]
)
def test_a_system_or_developer_message_stands_before_the_question(name: str, system: str) -> None:
    messages = [example.messages for example in read(name).examples]
    first = {"role": "system", "content": system}
    assert messages == [[first, *user(question)] for question in QUESTIONS]


@pytest.mark.parametrize("name", ["array.json", "crlf.jsonl", "utf16.jsonl"])
def test_an_example_names_the_line_on_which_it_begins(name: str) -> None:
    lines = [example.line for example in read(name).examples]
    step = 4 if name == "array.json" else 1
    assert lines == [lines[0] + step * n for n in range(10)]
    assert lines[0] == (2 if name == "array.json" else 1)


def test_a_fraction_in_a_box_is_the_reference_of_a_worked_solution() -> None:
    file = read("math.jsonl")
    assert references(file) == [[rf"\frac{{{one}}}{{1}}"] for one in SUMS]
    assert {example.verifier for example in file.examples} == {"numeric"}


def test_a_list_of_answers_is_a_list_of_equally_right_ones() -> None:
    assert references(read("listanswer.jsonl")) == [[one, f"{one}.0"] for one in SUMS]


def test_numbers_are_references_as_the_file_writes_them() -> None:
    file = read("floats.jsonl")
    texts = ["27.0", "0.1", "1e22", "1e-7", "123456789.123456789", "-0.0", "1E5"]
    texts += ["3.141592653589793238", "0.30000000000000004", "5"]
    assert references(file) == [[text] for text in texts]
    assert {example.verifier for example in file.examples} == {"numeric"}


def test_options_are_part_of_the_question_and_the_letter_is_the_reference() -> None:
    for name, options in (("commonsenseqa.jsonl", 2), ("mmlu_pro.jsonl", 10)):
        file = read(name)
        assert references(file) == [["B"]] * 10
        assert {example.verifier for example in file.examples} == {"choice"}
        for question, content, right in zip(QUESTIONS, contents(file), SUMS, strict=True):
            head, *lines = content.split("\n")
            assert (head, len(lines)) == (question, options)
            assert lines[:2] == ["A. 1", f"B. {right}"]
        assert [e.details["options"][1] for e in file.examples] == SUMS


def test_options_within_the_question_stay_as_they_are() -> None:
    file = read("choice_K.jsonl")
    assert contents(file) == [f"{question}\n(K) 1" for question in QUESTIONS]
    assert (references(file), file.examples[0].verifier) == ([["K"]] * 10, "choice")


def test_a_context_stands_before_its_question() -> None:
    file = read("squad.jsonl")
    assert contents(file)[0] == "There are 7 cats in city 0.\n\nHow many cats are in city 0?"
    assert references(file) == [[one] for one in SUMS]


def refusals(name: str) -> list[tuple[int, str | None, str, str]]:
    return [(e.line, e.param, e.code, e.value) for e in read(name).errors]


def test_a_question_with_a_picture_is_refused_by_its_field() -> None:
    expected = [(n, "image", "unusable_field", '"x.png"') for n in range(1, 11)]
    assert refusals("geometry_image.jsonl") == expected


def test_numbers_without_a_value_are_refused_by_line_and_field() -> None:
    assert refusals("nan.jsonl") == [(4, "answer", "invalid_number", "NaN")]
    assert refusals("hugeint.jsonl") == [(4, "answer", "invalid_number", "7" * 64 + "…")]


def test_proofs_are_refused_by_line() -> None:
    expected = [(n, "answer", "no_answer", '"proof"') for n in range(2, 11, 2)]
    assert refusals("numina15.jsonl") == expected


def test_latin_1_is_refused_with_the_text_around_the_byte() -> None:
    errors = read("latin1.jsonl").errors
    assert [(e.line, e.code) for e in errors] == [(n, "invalid_utf8") for n in range(1, 11)]
    assert "�" in errors[0].value
    assert errors[0].message.endswith("save the file as UTF-8")


def test_a_tolerance_is_left_to_its_verifier() -> None:
    file = read("tolerance_bad.jsonl")
    assert file.errors == ()
    assert [example.details for example in file.examples] == [{"tolerance": "5%"}] * 10


def test_questions_that_differ_in_the_system_message_only_are_ten_questions() -> None:
    file = read("rft_context.jsonl")
    assert file.errors == ()
    assert [example.reference for example in file.examples] == [[str(n)] for n in range(7, 27, 2)]


def test_every_file_has_its_test() -> None:
    source = Path(__file__).read_text()
    assert [path.name for path in FILES.iterdir() if f'"{path.name}"' not in source] == []


def test_every_refusal_names_line_value_and_remedy() -> None:
    errors: list[LineError] = [
        error for path in FILES.iterdir() for error in read(path.name).errors
    ]
    assert {error.code for error in errors} >= {"unusable_field", "no_answer", "invalid_utf8"}
    assert [
        error for error in errors if not (error.line and error.value and ";" in error.message)
    ] == []


def test_a_summary_counts_the_verifiers_with_three_examples_each() -> None:
    rows: list[dict[str, Any]] = read("mmlu_pro.jsonl").summary()["verifiers"]
    assert [(row["verifier"], row["count"]) for row in rows] == [("choice", 10)]
    assert [example["line"] for example in rows[0]["examples"]] == [1, 2, 3]
    assert rows[0]["examples"][0]["question"].startswith("Compute 3 plus 4.\nA. 1\nB. 7")
    assert rows[0]["examples"][0]["reference"] == ["B"]


TOKENS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b"\n", b":", b"null", b"true", b"1e999", b"\xff", b"7"),
    *(b"\\u0000", b"\\ud800", b'"answer":', b'"messages":', b'"options":', b'"content":', b"[]"),
    *(b"{}", b'"role":', b'"text":', b'"choices":', b'"context":', b'"label":', b"\\boxed{"),
)


def damaged(content: bytes, source: random.Random) -> bytes:
    """Return the content with a few tokens inserted, bytes deleted and parts repeated."""
    result = bytearray(content)
    for _ in range(source.randint(1, 6)):
        start = source.randrange(len(result) + 1)
        end = start + source.randrange(30)
        change = source.choice(("insert", "delete", "repeat"))
        if change == "insert":
            result[start:start] = source.choice(TOKENS)
        elif change == "delete":
            del result[start:end]
        else:
            result[start:start] = result[start:end]
    return bytes(result)


def test_a_damaged_file_is_read_or_refused_and_its_errors_can_be_sent() -> None:
    source = random.Random(18)
    contents = [path.read_bytes()[:1500] for path in sorted(FILES.iterdir())]
    contents.append(b'question,A,B,answer\nq,x,y,B\n"r",1,2,1\n')
    outcomes = set()
    for _ in range(1500):
        content = damaged(source.choice(contents), source)
        try:
            file = parse(content, VERIFIERS)
        except InvalidInputError:
            outcomes.add("refused")
            continue
        outcomes.add("errors" if file.errors else "read")
        sent = [file.summary(), [asdict(error) for error in file.errors]]
        json.dumps(sent, ensure_ascii=False).encode()
    assert outcomes == {"refused", "errors", "read"}
