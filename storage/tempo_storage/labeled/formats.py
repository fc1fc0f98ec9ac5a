"""Read the rows of a file, whatever its format: JSON Lines, a JSON array, CSV or Parquet.

A row that cannot be read is refused by its line; the others are read on. Rows are read one by one,
so that a file takes little more memory than its text.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tempo_storage.errors import InvalidInputError
from tempo_storage.labeled import parquet
from tempo_storage.labeled.fields import METADATA, OPTIONS, QUESTION, REFERENCE, TEMPLATE, Record
from tempo_storage.labeled.refusal import LineRefusedError, Note, refuse, shown
from tempo_storage.labeled.strict_json import (
    MAX_LINE_BYTES,
    UntypedText,
    decode,
    refuse_unstorable,
)

BOM = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The first bytes of files that no row can be read from, and the way to one that can be.
REMEDIES = {
    b"\x1f\x8b": "a gzip file; unpack it",
    b"PK\x03\x04": "a zip file or a spreadsheet; unpack it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "a zstd file; unpack it",
    b"BZh": "a bzip2 file; unpack it",
    b"\xfd7zXZ": "an xz file; unpack it",
    b"ARROW1": "an Arrow file; save it as Parquet, or pass its directory to `tempo recalibrate`",
    b"\xff\xff\xff\xff": "an Arrow file; pass its directory to `tempo recalibrate`",
    b"SQLite format 3": "a database; save the table as CSV",
    b"\x80\x04": "a pickle; save the questions as JSON Lines",
    b"\x80\x05": "a pickle; save the questions as JSON Lines",
}
BETWEEN_VALUES = re.compile(r"[\s,]*")
END_OF_ARRAY = re.compile(r"\]\s*")
DELIMITERS = (",", ";", "\t", "|")
MAX_HEADER_CHARACTERS = 16_384
MAX_NAME = 64
READABLE = "a labeled file is JSON Lines, a JSON array, CSV or Parquet"

BYTE_ORDER_MARK = Note("byte_order_mark", "the byte order mark is ignored")
UTF_16 = Note("utf_16", "the file is read as UTF-16")
JOINED = Note("joined_objects", "several objects on a line, or a comma after one; each is read")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file: its first line, and its fields or their refusal.

    The rows of a Parquet file have no lines; they are counted instead.
    """

    line: int
    fields: dict[str, Any] | LineRefusedError
    notes: tuple[Note, ...] = ()


def read_rows(content: bytes) -> Iterator[Row | None]:
    """Yield the rows of a file, and None for a blank line.

    Raises InvalidInputError for a file of a format that has no rows, or of one that cannot be read.
    """
    if content.startswith(parquet.MAGIC):
        yield from _json_lines(parquet.as_json_lines(content))
        return
    for magic, remedy in REMEDIES.items():
        if content.startswith(magic):
            raise InvalidInputError(f"the file is {remedy}; {READABLE}")
    if content.startswith(UTF_16_MARKS):
        content = _from_utf_16(content)
    elif b"\0" in content[:64]:
        raise InvalidInputError(f"the file is not text; save it as UTF-8; {READABLE}")
    content = content.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield from _rows_of_text(content)


def encoding_note(content: bytes) -> Note | None:
    """Return a note on the encoding of a file that is not plain UTF-8."""
    if content.startswith(UTF_16_MARKS):
        return UTF_16
    return BYTE_ORDER_MARK if content.startswith(BOM) else None


def _rows_of_text(content: bytes) -> Iterator[Row | None]:
    start = content[:MAX_LINE_BYTES].lstrip()
    first_line = start.partition(b"\n")[0].strip()
    # An object or an array over several lines; other files are read line by line, because an error
    # in a line does not hide the next one.
    if start.startswith(b"[") or first_line == b"{":
        return _json_values(content)
    delimiter = None if start.startswith(b"{") else _delimiter(first_line)
    return _json_lines(content) if delimiter is None else _csv(content, delimiter)


def _from_utf_16(content: bytes) -> bytes:
    try:
        return content.decode("utf-16").encode()
    except UnicodeError as error:
        raise InvalidInputError(f"the file is no UTF-16 ({error}); save it as UTF-8") from None


def _utf_8(content: bytes) -> str:
    """Return the text of a file; raise InvalidInputError with the line of a byte that is wrong."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"line {line} is not UTF-8; save the file as UTF-8"
        raise InvalidInputError(message) from None


# JSON --------------------------------------------------------------------------------------------


def _json_lines(content: bytes) -> Iterator[Row | None]:
    """Yield the objects of each line; an error hides the rest of its line only."""
    for number, raw in enumerate(_lines(content), start=1):
        if not raw.strip():
            yield None
            continue
        try:
            text = _text(raw)
        except LineRefusedError as error:
            yield Row(number, error)
            continue
        start = _next_value(text, 0)
        notes: tuple[Note, ...] = ()
        while start < len(text):
            value, end = decode(text, start)
            start = _next_value(text, end)
            if start < len(text) or "," in text[end:start]:
                notes = (JOINED,)
            yield Row(number, value, notes)
            if isinstance(value, LineRefusedError):
                break


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1


def _text(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        refuse("line_too_long", "longer than 1 MiB; shorten it", value=raw[:100])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = "the line is not UTF-8; save the file as UTF-8"
        refuse("invalid_utf8", message, value=raw[max(error.start - 20, 0) : error.start + 20])


def _json_values(content: bytes) -> Iterator[Row | None]:
    """Yield the objects of an array, or objects that take several lines each."""
    text = _utf_8(content)
    start = len(text) - len(text.lstrip())
    is_array = text[start] == "["
    start = _next_value(text, start + is_array)
    line = 1 + text.count("\n", 0, start)
    value: dict[str, Any] | LineRefusedError = {}
    while start < len(text) and not (is_array and END_OF_ARRAY.fullmatch(text, start)):
        value, end = decode(text, start)
        yield Row(line, value)
        next_start = _next_value(text, end)
        line += text.count("\n", start, next_start)
        start = next_start
    if is_array and start >= len(text) and not isinstance(value, LineRefusedError):
        message = "the array does not end with ]; the file may be cut off"
        yield Row(line, LineRefusedError(message, code="invalid_json"))


def _next_value(text: str, end: int) -> int:
    match = BETWEEN_VALUES.match(text, end)
    return match.end() if match else end


# CSV ---------------------------------------------------------------------------------------------


def _delimiter(first_line: bytes) -> str | None:
    """Return the delimiter with which the first line is a header; None if it is none."""
    header = first_line[:MAX_HEADER_CHARACTERS].decode(errors="replace")
    for delimiter in DELIMITERS:
        names = header.replace('"', "").split(delimiter)
        record = Record(dict.fromkeys((name.strip() for name in names), ""))
        if len(names) > 1 and record.find(QUESTION) is not None:
            return delimiter
    return None


def _csv(content: bytes, delimiter: str) -> Iterator[Row | None]:
    text = io.StringIO(_utf_8(content), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _next_cells(reader)
    if not isinstance(header, list):
        yield Row(1, header) if header else None
        return
    names = [name.strip() for name in header]
    if name := next((name for name, count in Counter(names).items() if count > 1), None):
        message = "two columns have this name; keep one"
        yield Row(1, LineRefusedError(message, code="duplicate_key", param=name[:MAX_NAME]))
        return
    columns = Columns(names)
    line = reader.line_num + 1
    while (cells := _next_cells(reader)) is not None:
        if isinstance(cells, LineRefusedError):
            yield Row(line, cells)
        else:
            yield columns.row(line, cells) if cells else None
        line = reader.line_num + 1


def _next_cells(reader: Iterator[list[str]]) -> list[str] | LineRefusedError | None:
    """Return the cells of the next row, or its refusal; None after the last row."""
    try:
        return next(reader, None)
    except csv.Error as error:
        message = f"not CSV ({error}); put a text with quotation marks between quotation marks"
        return LineRefusedError(f"{message}, and double its own", code="invalid_csv")


class Columns:
    """The columns of a CSV file; those of chats, options and objects hold JSON."""

    def __init__(self, names: list[str]) -> None:
        record = Record(dict.fromkeys(names, ""))
        fields = (QUESTION, REFERENCE, OPTIONS, METADATA, TEMPLATE)
        self._names = names
        self._objects = {name for field in fields for name in record.find_all(field.aliases)}
        # Elsewhere a list is no JSON: the answer `[1, 2]` is an interval, not two answers.
        aliases = (*QUESTION.aliases, *OPTIONS.aliases)
        self._lists = set(record.find_all(aliases))

    def row(self, line: int, cells: list[str]) -> Row:
        """Return the fields of a row; an empty cell is null."""
        if len(cells) != len(self._names):
            message = f"{len(cells)} cells under {len(self._names)} names; put a text that has the"
            error = LineRefusedError(
                f"{message} delimiter in it between quotation marks",
                code="invalid_csv",
                value=shown(cells),
            )
            return Row(line, error)
        fields = {n: self._value(n, cell) for n, cell in zip(self._names, cells, strict=True)}
        try:
            refuse_unstorable(fields)
        except LineRefusedError as error:
            return Row(line, error)
        return Row(line, fields)

    def _value(self, name: str, cell: str) -> Any:
        start = cell.lstrip()[:1]
        is_json = name in self._objects and (start == "{" or (start == "[" and name in self._lists))
        if not is_json:
            return UntypedText(cell) if cell else None
        # An object around the cell, because `decode` reads objects only.
        value, end = decode(f'{{"cell":{cell}}}', 0)
        is_whole = end == len(f'{{"cell":{cell}}}')
        is_json = is_whole and isinstance(value, dict) and len(value) == 1
        return value["cell"] if is_json and isinstance(value, dict) else UntypedText(cell)
