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
from tempo_storage.labeled.refusal import LineRefusedError, Note, refuse, shortened
from tempo_storage.labeled.strict_json import (
    MAX_LINE_BYTES,
    UntypedText,
    decode,
    refuse_unstorable,
)

BOM = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The first bytes of files that no row can be read from.
FORMATS_WITHOUT_ROWS = (
    {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file or a spreadsheet"}
    | {b"\x28\xb5\x2f\xfd": "a zstd file", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file"}
    | {b"ARROW1": "an Arrow file", b"\xff\xff\xff\xff": "an Arrow file"}
    | {b"SQLite format 3": "a database", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle"}
)
BETWEEN_VALUES = re.compile(r"[\s,]*")
EXCEL_DELIMITER = re.compile(rb"(?i)\Asep=.(?=\n)")  # a line before the header
END_OF_ARRAY = re.compile(r"\]\s*")
DELIMITERS = (",", ";", "\t", "|")
MAX_HEADER_CHARACTERS = 16_384
READABLE = "unpack it, or save it as CSV, Parquet or JSON Lines"

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
    for magic, name in FORMATS_WITHOUT_ROWS.items():
        if content.startswith(magic):
            raise InvalidInputError(f"the file is {name}; {READABLE}")
    if content.startswith(UTF_16_MARKS):
        content = _from_utf_16(content)
    elif b"\0" in content[:64]:
        raise InvalidInputError("the file is not text; save it as UTF-8")
    content = content.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield from _rows_of_text(EXCEL_DELIMITER.sub(b"", content))


def _rows_of_text(content: bytes) -> Iterator[Row | None]:
    start = content[:MAX_LINE_BYTES].lstrip()
    first_line = start.partition(b"\n")[0].strip()
    # An object or an array over several lines; other files are read line by line, because an error
    # in a line does not hide the next one.
    if start.startswith(b"[") or first_line == b"{":
        return _values(_utf_8(content), 1, is_line=False)
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
    for number, raw in enumerate(io.BytesIO(content), start=1):
        if not raw.strip():
            yield None
            continue
        try:
            text = _text(raw.rstrip(b"\n"))
        except LineRefusedError as error:
            yield Row(number, error)
        else:
            yield from _values(text, number, is_line=True)


def _text(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        refuse("line_too_long", "longer than 1 MiB; shorten it", value=raw[:100])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = "the line is not UTF-8; save the file as UTF-8"
        refuse("invalid_utf8", message, value=raw[max(error.start - 20, 0) : error.start + 20])


def _values(text: str, line: int, *, is_line: bool) -> Iterator[Row | None]:
    """Yield the objects of a line; or of a file, which is an array or has objects in a row."""
    start = len(text) - len(text.lstrip())
    is_array = not is_line and text[start] == "["
    start = _next_value(text, start + is_array)
    line += text.count("\n", 0, start)
    value: dict[str, Any] | LineRefusedError = {}
    while start < len(text) and not (is_array and END_OF_ARRAY.fullmatch(text, start)):
        value, end = decode(text, start)
        next_start = _next_value(text, end)
        is_joined = is_line and (next_start < len(text) or "," in text[end:next_start])
        yield Row(line, value, (JOINED,) if is_joined else ())
        if is_line and isinstance(value, LineRefusedError):
            return
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
        if len(names) > 1 and record.find(REFERENCE) is not None:
            columns = shortened(", ".join(names))
            message = f"the header has no question (columns: {columns}); name one 'question'"
            raise InvalidInputError(message)
    return None


def _csv(content: bytes, delimiter: str) -> Iterator[Row | None]:
    """Yield the rows below the header; an open quotation mark hides the rest of the file."""
    text = io.StringIO(_utf_8(content), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns = None
    line = 1
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):  # a spreadsheet's empty row, too
                yield None
            elif columns is None:
                columns = Columns([name.strip() for name in cells])
            else:
                yield columns.row(line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        message = f"not CSV ({error}); put a text with quotation marks between quotation marks"
        refusal = LineRefusedError(f"{message}, and double its own", code="invalid_csv")
        yield Row(line, refusal)
    except LineRefusedError as error:
        yield Row(line, error)


class Columns:
    """The columns of a CSV file; those of chats, options and objects hold JSON."""

    def __init__(self, names: list[str]) -> None:
        """Raise LineRefusedError if two columns have one name."""
        for name, count in Counter(names).items():
            if count > 1:
                refuse("duplicate_key", "two columns have this name; keep one", name)
        record = Record(dict.fromkeys(names, ""))
        objects = (QUESTION, REFERENCE, OPTIONS, METADATA, TEMPLATE)
        self._names = names
        self._objects = {e.name for field in objects for e in record.find_all(field.aliases)}
        # Elsewhere a list is no JSON: the answer `[1, 2]` is an interval, not two answers.
        aliases = (*QUESTION.aliases, *OPTIONS.aliases)
        self._lists = {entry.name for entry in record.find_all(aliases)}

    def row(self, line: int, cells: list[str]) -> Row:
        """Return the fields of a row; an empty cell is null."""
        try:
            if len(cells) != len(self._names):
                message = f"{len(cells)} cells under {len(self._names)} names; put a text that has"
                message += " the delimiter in it between quotation marks"
                refuse("invalid_csv", message, value=cells)
            fields = {n: self._value(n, cell) for n, cell in zip(self._names, cells, strict=True)}
            refuse_unstorable(fields)
        except LineRefusedError as error:
            return Row(line, error)
        return Row(line, fields)

    def _value(self, name: str, cell: str) -> Any:
        start = cell.lstrip()[:1]
        if name in self._objects and (start == "{" or (start == "[" and name in self._lists)):
            # An object around the cell, because `decode` reads objects only.
            text = f'{{"cell":{cell}}}'
            value, end = decode(text, 0)
            if isinstance(value, dict) and len(value) == 1 and end == len(text):
                return value["cell"]
        return UntypedText(cell) if cell else None
