"""Read a directory of Hugging Face's `datasets` as JSON Lines, with the extra `files`.

`Dataset.save_to_disk` writes Arrow files and `state.json`; a download from the hub has Parquet
files. The package `datasets` itself is not needed.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tempo_client.errors import DatasetError

MAX_BYTES = 32 * 1024 * 1024  # of an upload
SPLITS = "dataset_dict.json"
STATE = "state.json"
INSTALL = 'pip install "vllm-tempo[files]"'


def json_lines(directory: Path) -> bytes:
    """Return the rows of one split, one JSON object on a line; raise DatasetError."""
    lines: list[bytes] = []
    size = 0
    for fields in _rows(_files(directory)):
        # pandas writes NaN for a value that is missing, and only NaN differs from itself.
        row = {name: None if value != value else value for name, value in fields.items()}
        line = json.dumps(row, ensure_ascii=False, default=_as_text).encode() + b"\n"
        size += len(line)
        if size > MAX_BYTES:
            raise DatasetError(f"{directory} has more than 32 MiB; select fewer rows")
        lines.append(line)
    return b"".join(lines)


def _files(directory: Path) -> list[Path]:
    """Return the files of the directory's only split, in their order."""
    if (directory / SPLITS).is_file():
        splits = json.loads((directory / SPLITS).read_bytes()).get("splits", [])
        raise DatasetError(_choose(directory, [directory / str(split) for split in splits]))
    if (directory / STATE).is_file():
        shards = json.loads((directory / STATE).read_bytes()).get("_data_files", [])
        return [directory / Path(shard["filename"]).name for shard in shards]
    for folder in (directory, directory / "data"):
        files = sorted([*folder.glob("*.parquet"), *folder.glob("*.arrow")])
        # train-00000-of-00002.parquet: the shards of a split share the beginning of their names.
        splits = {file.stem.partition("-0")[0] for file in files}
        if len(splits) > 1:
            raise DatasetError(_choose(directory, files))
        if files:
            return files
    raise DatasetError(f"{directory} has no dataset: no Arrow or Parquet file; pass a file")


def _choose(directory: Path, paths: Iterable[Path]) -> str:
    return f"{directory} has several splits; pass one: {', '.join(map(str, paths))}"


def _rows(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    try:
        from arro3.io import read_ipc_stream, read_parquet
    except ImportError:
        raise DatasetError(f"a datasets directory needs arro3-io; {INSTALL}") from None
    for file in files:
        read = read_parquet if file.suffix == ".parquet" else read_ipc_stream
        try:
            for batch in read(file):
                yield from batch.to_struct_array().to_pylist()
        except Exception as error:  # arro3 has several kinds, and a panic for a broken file
            raise DatasetError(f"{file} cannot be read: {error}") from error


def _as_text(value: Any) -> str:
    """Return a text for a value that JSON lacks; of bytes only their number."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
