"""Decode JSON more strictly than json.loads, and keep a number as its author wrote it."""

import json
import math
from collections import Counter
from typing import Any, NamedTuple

from tempo_storage.labeled.refusal import LineRefusedError, refuse, shown

MAX_LINE_BYTES = 1024 * 1024
MAX_DEPTH = 16
MAX_FIELDS = 256
MAX_DIGITS = 2_048
# A value is decoded in a window of the text, so that one endless value takes little memory. The
# window grows, so the time is linear in the length of the value.
WINDOWS = (4 * 1024, 64 * 1024, MAX_LINE_BYTES)
REMEDY = "write one object on a line; CSV begins with a header such as question,answer"


class JsonFloat(float):
    """A float with the text that stands in the file: `1E5` or `3.141592653589793238`."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "JsonFloat":
        """Read a number; one without a finite value is refused later, with its field."""
        value = super().__new__(cls, text)
        value.text = text
        return value


class UntypedText(str):
    """A cell of CSV, which does not tell a number from a text."""

    __slots__ = ()


class Duplicate(NamedTuple):
    """A value whose field stands twice in its object; it is refused later, with its field."""

    value: Any


def decode(text: str, start: int) -> tuple[dict[str, Any] | LineRefusedError, int]:
    """Return the object that begins at `start`, or its refusal, and the index of its end.

    The end is the text's own after an error that hides where the next object begins.
    """
    end = len(text)
    try:
        value, end = _decode_in_window(text, start)
        if not isinstance(value, dict):
            refuse("invalid_json", f"not a JSON object; {REMEDY}", value=value)
        if len(value) > MAX_FIELDS:
            refuse("too_many_fields", f"{len(value)} fields; give at most {MAX_FIELDS}")
        refuse_unstorable(value)
    except LineRefusedError as error:
        return error, end
    return value, end


def as_text(value: Any) -> str:
    """Return a text or a number as the file writes it."""
    return value.text if isinstance(value, JsonFloat) else str(value)


def refuse_unstorable(record: dict[str, Any]) -> None:
    """Refuse values that databases, templates or tokenizers cannot take, wherever they stand."""
    for name, value in record.items():
        _check(name, name, 1)
        _check(value, name, 2)


def _decode_in_window(text: str, start: int) -> tuple[Any, int]:
    for size in WINDOWS:
        window = text[start : start + size]
        is_last = size == WINDOWS[-1] or start + size >= len(text)
        try:
            value, length = DECODER.raw_decode(window)
        except RecursionError:
            refuse("too_deep", f"nested deeper than {MAX_DEPTH}; flatten it")
        except json.JSONDecodeError as error:
            if not is_last:
                continue
            is_cut = start + size < len(text)
            if is_cut and (error.msg.startswith("Unterminated") or error.pos > size - 16):
                break
            raise _not_json(error, window) from None
        if length < size or start + size >= len(text):
            return value, start + length
    refuse("line_too_long", "longer than 1 MiB; shorten it", value=text[start : start + 100])


def _not_json(error: json.JSONDecodeError, window: str) -> LineRefusedError:
    reason = error.msg.removesuffix(" at").lower()
    message = f"not JSON ({reason} at character {error.pos + 1}); {REMEDY}"
    value = shown(window[max(error.pos - 20, 0) : error.pos + 20].encode(errors="replace"))
    return LineRefusedError(message, code="invalid_json", value=value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; only its duplicate fields if there are some."""
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    counts = Counter(name for name, _ in pairs)
    return {name: Duplicate(value) for name, value in record.items() if counts[name] > 1}


def _integer(text: str) -> int | JsonFloat:
    # A float of so many digits is infinite, and so it is refused.
    return int(text) if len(text) <= MAX_DIGITS else JsonFloat(text)


DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=JsonFloat, parse_float=JsonFloat, parse_int=_integer
)


def _check(value: Any, name: str, depth: int) -> None:
    if depth > MAX_DEPTH + 1:
        refuse("too_deep", f"nested deeper than {MAX_DEPTH}; flatten it", name)
    if isinstance(value, str):
        _check_text(value, name)
    elif isinstance(value, Duplicate):
        refuse("duplicate_key", "the field is there twice; keep one", name, value.value)
    elif isinstance(value, JsonFloat) and not math.isfinite(value):
        message = "not a finite number of at most 2,048 digits; write one, or a text in quotes"
        refuse("invalid_number", message, name, value.text.encode())
    elif isinstance(value, dict | list):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(inner, name, depth + 1)


def _check_text(text: str, name: str) -> None:
    if "\0" in text:
        refuse("nul_character", "holds a NUL character; remove it", name, text)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "holds half a surrogate pair; write the whole character"
        refuse("lone_surrogate", message, name, text)
