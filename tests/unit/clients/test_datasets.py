"""Directories of Hugging Face's `datasets`: the SDK reads them and sends JSON Lines."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from arro3.core import Array, DataType, Table
from arro3.io import infer_json_schema, read_json, write_ipc_stream, write_parquet
from fake_api import client, run

from tempo_client import DatasetError
from tempo_client._datasets import json_lines

ROWS = [
    {"question": f"{n} + 1?", "answer": str(n + 1), "options": ["a", "é"], "note": None}
    for n in range(4)
]


def table(rows: list[dict[str, Any]]) -> Table:
    lines = "".join(json.dumps(row | {"note": "x"}) + "\n" for row in rows).encode()
    reader = read_json(io.BytesIO(lines), infer_json_schema(io.BytesIO(lines)))
    notes = Array([None] * len(rows), DataType.string())
    batch = reader.read_all()
    return batch.set_column(batch.column_names.index("note"), "note", notes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory as `Dataset.save_to_disk` writes it, in two shards."""
    directory = tmp_path / "sums"
    directory.mkdir()
    names = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    for n, name in enumerate(names):
        write_ipc_stream(table(ROWS[2 * n : 2 * n + 2]), directory / name)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (directory / "state.json").write_text(json.dumps(state))
    (directory / "dataset_info.json").write_text("{}")
    return directory


def rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def test_a_saved_dataset_is_read_shard_by_shard(saved: Path) -> None:
    assert rows(json_lines(saved)) == ROWS


def test_a_downloaded_dataset_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n in range(2):
        file = tmp_path / "data" / f"train-0000{n}-of-00002.parquet"
        write_parquet(table(ROWS[2 * n : 2 * n + 2]), file)
    assert rows(json_lines(tmp_path)) == ROWS
    write_parquet(table(ROWS), tmp_path / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match=r"several splits; pass one: .*test-00000"):
        json_lines(tmp_path)


def test_a_dataset_of_several_splits_is_refused_with_their_names(saved: Path) -> None:
    parent = saved.parent
    (parent / "dataset_dict.json").write_text('{"splits": ["sums", "test"]}')
    with pytest.raises(DatasetError, match=f"pass one: {saved}, {parent / 'test'}"):
        json_lines(parent)


def test_bytes_are_sent_as_their_number(tmp_path: Path) -> None:
    pictures = Table.from_pydict({"image": Array([b"\x89PNG"], DataType.binary())})
    write_parquet(pictures, tmp_path / "train.parquet")
    assert rows(json_lines(tmp_path)) == [{"image": "4 bytes"}]


def test_a_directory_that_cannot_be_read_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has no dataset"):
        json_lines(tmp_path / "empty")
    shard = saved / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"data-00001-of-00002\.arrow cannot be read"):
        json_lines(saved)


def test_a_dataset_of_more_than_an_upload_is_refused(tmp_path: Path) -> None:
    big = Table.from_pydict({"question": Array(["x" * 100_000] * 400, DataType.string())})
    write_parquet(big, tmp_path / "train.parquet", compression="zstd(1)")
    with pytest.raises(DatasetError, match="more than 32 MiB; select fewer rows"):
        json_lines(tmp_path)


def test_without_the_extra_the_command_to_install_is_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    with pytest.raises(DatasetError, match=r'pip install "vllm-tempo\[files\]"'):
        json_lines(saved)
    result = run("recalibrate", str(saved), answers={})
    assert result.exit_code == 1
    assert 'pip install "vllm-tempo[files]"' in result.stderr


def test_the_sdk_uploads_a_directory_as_json_lines(saved: Path) -> None:
    contents: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        contents.append(request.content)
        return httpx.Response(
            200, json={"id": "f", "bytes": 1, "created_at": 1, "filename": "sums.jsonl"}
        )

    with client(answer) as tempo:
        tempo.files.create(saved)
    assert b'filename="sums.jsonl"' in contents[0]
    assert contents[0].count(b'"question": ') == len(ROWS)


def test_nan_is_sent_as_a_missing_value(tmp_path: Path) -> None:
    numbers = Table.from_pydict({"answer": Array([1.5, float("nan")], DataType.float64())})
    write_parquet(numbers, tmp_path / "train.parquet")
    assert rows(json_lines(tmp_path)) == [{"answer": 1.5}, {"answer": None}]
