"""Parquet files: a child process reads them within bounds on memory, time and output."""

import io
import json
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from arro3.core import Array, DataType, RecordBatch, RecordBatchReader, Table
from arro3.io import infer_json_schema, read_json, write_parquet
from labeled_lines import VERIFIERS, line

from tempo_storage.errors import InvalidInputError, TooLargeError
from tempo_storage.labeled import parquet
from tempo_storage.labeled.file import ParsedFile, parse

BOMB_ROWS = 100_000


def written(data: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    write_parquet(data, file, **options)
    return file.getvalue()


def of_rows(*rows: dict[str, Any]) -> bytes:
    """Return a Parquet file of these rows."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return written(read_json(io.BytesIO(lines), infer_json_schema(io.BytesIO(lines))))


def read(content: bytes) -> ParsedFile:
    return parse(content, VERIFIERS)


def test_rows_are_read_with_lists_objects_and_nulls() -> None:
    file = read(
        of_rows(
            {
                "question": "q é",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answer": "B",
            },
            {"question": "r", "choices": None, "answer": "7"},
        )
    )
    assert file.errors == ()
    assert [(e.line, e.messages[-1]["content"], e.reference) for e in file.examples] == [
        (1, "q é\nA. x\nB. y", ["B"]),
        (2, "r", ["7"]),
    ]


def test_a_picture_is_refused_by_its_row_and_field() -> None:
    questions = Array(["q", "r"], DataType.string())
    pictures = Array([b"\x89PNG" * 100, None], DataType.binary())
    table = Table.from_pydict({"question": questions, "answer": questions, "image": pictures})
    errors = read(written(table)).errors
    assert [(e.line, e.param, e.value) for e in errors] == [(1, "image", '"400 bytes"')]


def test_nan_is_a_missing_value() -> None:
    questions = Array(["q", "r"], DataType.string())
    answers = Array([7.5, float("nan")], DataType.float64())
    file = read(written(Table.from_pydict({"question": questions, "answer": answers})))
    assert [example.reference for example in file.examples] == [["7.5"]]
    assert [(e.line, e.code) for e in file.errors] == [(2, "missing_reference")]


def test_a_file_that_is_cut_off_is_refused_with_a_remedy() -> None:
    content = of_rows({"question": "q", "answer": "7"})
    for broken in (content[:-10], content[:4], b"PAR1" + b"\0" * 100 + b"PAR1"):
        with pytest.raises(InvalidInputError, match=r"cannot be read .* save it as JSON Lines"):
            read(broken)


def batches() -> Iterable[RecordBatch]:
    text = Array(["x" * 100_000] * 100, DataType.string())
    for _ in range(BOMB_ROWS // 100):
        yield RecordBatch.from_pydict({"question": text})


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Ten gigabytes of text in a file of a few kilobytes."""
    first = next(iter(batches()))
    return written(RecordBatchReader.from_batches(first.schema, batches()), compression="zstd(3)")


def test_a_bomb_is_refused_within_the_bounds(bomb: bytes) -> None:
    assert len(bomb) < 1 << 20
    with pytest.raises(TooLargeError, match="more than 32 MiB; split it"):
        read(bomb)


def test_a_child_without_enough_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, bomb: bytes
) -> None:
    script = (
        "from tempo_storage.labeled import parquet;parquet.MEMORY_BYTES = 64 << 20; parquet.main()"
    )
    monkeypatch.setattr(parquet, "COMMAND", (sys.executable, "-c", script))
    with pytest.raises(InvalidInputError, match="the Parquet file cannot be read"):
        read(bomb)


def test_a_child_that_hangs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(parquet, "MAX_SECONDS", 0.5)
    with pytest.raises(InvalidInputError, match=r"not read within 0\.5 s; save it as JSON Lines"):
        read(b"PAR1")


def test_without_the_extra_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"install vllm-tempo\[files\]"):
        read(b"PAR1")
    assert read(line()).errors == ()  # other formats need no package
