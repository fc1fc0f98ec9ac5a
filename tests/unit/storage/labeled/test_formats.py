"""The formats of a labeled file: JSON Lines, a JSON array, CSV; each within its bounds."""

import gc
import json
import time
from collections.abc import Iterator

import pytest
from labeled_lines import VERIFIERS, line
from ledgers import user

from tempo_storage.errors import InvalidInputError, TooLargeError
from tempo_storage.labeled.file import ParsedFile, parse


def read(content: bytes | str) -> ParsedFile:
    return parse(content.encode() if isinstance(content, str) else content, VERIFIERS)


def pairs(content: bytes | str) -> list[tuple[int, str, list[str]]]:
    """Return line, question and reference of each example of a file without errors."""
    file = read(content)
    assert file.errors == ()
    return [(e.line, e.messages[-1]["content"], e.reference) for e in file.examples]


def errors(content: bytes | str) -> list[tuple[int, str]]:
    return [(error.line, error.code) for error in read(content).errors]


ROWS = [{"question": "q\n1", "answer": "1"}, {"question": "q2", "answer": "2"}]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_with_the_line_of_each_object(indent: int | None) -> None:
    lines = [1, 1] if indent is None else [2, 6]
    assert pairs(json.dumps(ROWS, indent=indent)) == [
        (lines[0], "q\n1", ["1"]),
        (lines[1], "q2", ["2"]),
    ]


def test_objects_over_several_lines_are_read() -> None:
    content = "\n".join(json.dumps(row, indent=1) for row in ROWS)
    assert pairs(content) == [(1, "q\n1", ["1"]), (5, "q2", ["2"])]


def test_an_array_without_its_end_is_refused() -> None:
    assert errors(json.dumps(ROWS)[:-1]) == [(1, "invalid_json")]
    assert errors(json.dumps(ROWS)[:-5]) == [(1, "invalid_json")]


def test_an_error_within_an_object_of_an_array_does_not_hide_the_next_ones() -> None:
    content = '[{"question": "a", "a": 1, "a": 2}, [{"a": 1, "a": 2}],\n{"question": "b"},\n'
    assert errors(content + '{"answer": NaN}, 7]') == [
        (1, "duplicate_key"),
        (1, "invalid_json"),
        (2, "missing_reference"),
        (3, "invalid_number"),
        (3, "invalid_json"),
    ]


def test_two_objects_on_a_line_are_read_and_noted() -> None:
    content = '{"question": "a", "answer": "1"} {"question": "b", "answer": "2"}'
    assert pairs(content) == [(1, "a", ["1"]), (1, "b", ["2"])]
    assert {"joined_objects"} <= {w["code"] for w in read(content).summary()["warnings"]}


def test_old_mac_line_ends_are_line_ends() -> None:
    assert [n for n, *_ in pairs(b'{"question": "a", "answer": "1"}\r' + line())] == [1, 2]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_with_its_delimiter(delimiter: str) -> None:
    rows = ["question,answer,level", '"a, ""b""; c\td|\ne",7,', "", "q,2,5"]
    content = "\n".join(row.replace(",", delimiter) for row in rows)
    question = 'a, "b"; c\td|\ne'.replace(",", delimiter)
    assert pairs(content) == [(2, question, ["7"]), (5, "q", ["2"])]
    assert [example.details for example in read(content).examples] == [
        {"level": None},
        {"level": "5"},
    ]


def test_a_list_in_a_cell_is_read_for_options_and_not_for_answers() -> None:
    content = 'question,options,answer\nq,"[""x"", ""y""]",B\n'
    assert pairs(content) == [(2, "q\nA. x\nB. y", ["B"])]
    assert pairs('question,answer\nq,"[1, 2]"\nr,"{1, 2}"\n') == [
        (2, "q", ["[1, 2]"]),
        (3, "r", ["{1, 2}"]),
    ]


def test_blank_lines_before_the_header_are_skipped() -> None:
    assert pairs("\n\nquestion,answer\n\nq,7\n") == [(5, "q", ["7"])]


def test_the_empty_rows_of_a_spreadsheet_are_blank_lines() -> None:
    assert pairs("question,answer\n,\nq,7\n,\n , \n") == [(3, "q", ["7"])]


def test_a_line_that_names_the_delimiter_may_stand_before_the_header() -> None:
    assert pairs("sep=;\nquestion;answer\nq;7\n") == [(3, "q", ["7"])]


def test_a_header_without_a_question_is_refused_once() -> None:
    with pytest.raises(InvalidInputError, match=r"columns: words, answer\); name one 'question'"):
        read("words,answer\nq,7\nr,8\n")


def test_a_column_for_each_option_is_read() -> None:
    content = "Question,A,B,C,Correct Answer\nq,x,y,z,C\n"
    assert pairs(content) == [(2, "q\nA. x\nB. y\nC. z", ["C"])]


def test_a_number_in_csv_that_may_be_an_option_or_its_index_is_refused() -> None:
    content = "question,A,B,answer\nq,0,1,1\nq2,x,y,1\nq3,1,0,1\n"
    assert errors(content) == [(4, "invalid_reference")]


def test_a_row_of_csv_with_too_many_cells_or_open_quotation_marks_is_refused() -> None:
    assert errors("question,answer\na,b,c\nq,7\n") == [(2, "invalid_csv")]
    assert errors('question,answer\n"a" b,7\nq,7\n')[0] == (2, "invalid_csv")
    assert errors('question,answer\n"' + "x" * 200_000)[0] == (2, "invalid_csv")
    assert errors("question,answer,answer\na,b,c\n") == [(1, "duplicate_key")]
    assert errors("question,answer\n" + "q" * 99 + "\0,7\n") == [(2, "nul_character")]


def test_text_without_a_header_is_refused_line_by_line() -> None:
    assert errors("6*7,42\n7*8,56\n") == [(1, "invalid_json"), (2, "invalid_json")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"ARROW1\0\0", "Arrow"),
        ("question".encode("utf-16-le"), "not text"),
        (b"\xff\xfe\x00\xd8", "no UTF-16"),
        (b'[{"question": "\xe9"}]', "line 1 is not UTF-8"),
    ],
)
def test_a_file_of_another_format_is_refused_with_a_remedy(content: bytes, name: str) -> None:
    with pytest.raises(InvalidInputError, match=name) as refusal:
        read(content)
    assert ";" in str(refusal.value)


def test_more_rows_than_lines_are_refused_in_every_format() -> None:
    array = f"[{','.join(['{}'] * 20_001)}]"
    for content in ("{}" * 20_001, array, "question,a\n" + "a,1\n" * 20_001):
        with pytest.raises(TooLargeError):
            read(content)


ENDLESS = {
    "an open bracket": "[" * 200_000,
    "open objects": '{"a":' * 200_000,
    "an endless text in an array": '["' + "x" * 4_000_000,
    "a big number": "[" + "9" * 4_000_000,
    "commas": "[" + ", " * 2_000_000,
    "brackets that close": "[" + "] " * 500_000,
    "many names, the last one twice": json.dumps({f"{n:x}": 0 for n in range(90_000)})[:-1]
    + ', "1": 0}',
    "open quotation marks": "question,answer\n" + '"x' * 500_000,
    "a header of delimiters": "question" + "," * 500_000 + "\n" + "," * 500_000,
    "small objects": "[" + "{}," * 19_000 + "{}]",
    "empty lists": '{"question": ' + "[" + "[]," * 300_000 + "[]]}",
}


@pytest.fixture
def collector() -> Iterator[None]:
    """Keep Python's collector from what all tests before this one left; that takes its time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS)
def test_a_hostile_file_is_refused_quickly(content: str) -> None:
    started = time.process_time()
    assert read(content).errors
    assert time.process_time() - started < 3.0


def test_an_object_of_an_array_is_refused_beyond_a_megabyte() -> None:
    content = json.dumps([{"question": "q", "answer": "7", "x": "y" * (1 << 20)}, ROWS[0]])
    assert errors(content) == [(1, "line_too_long")]
    fits = json.dumps([{"question": "q", "answer": "7", "x": "y" * 500_000}, ROWS[0]])
    assert [question for _, question, _ in pairs(fits)] == ["q", "q\n1"]


def test_text_of_any_language_is_kept_in_every_format() -> None:
    text = "Ünï, 日本語 «𝔘» \u2028 ?"
    row = {"question": text, "answer": "7"}
    for content in (
        json.dumps(row),
        json.dumps([row], ensure_ascii=False),
        f'question,answer\n"{text}",7\n',
        json.dumps(row, ensure_ascii=False).encode("utf-16"),
    ):
        assert read(content).examples[0].messages == user(text)
