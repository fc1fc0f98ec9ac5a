"""Labeled questions of Python may hold the values of numpy and pandas."""

import datetime
import json
import math
from typing import Any

import numpy as np
import pytest
from fake_api import client

from tempo_client._json_line import json_line


class Frame:
    """Stands for a pandas DataFrame, which is not installed here."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self._rows = list(rows)

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self._rows


class NAType:
    """Stands for pandas.NA: no comparison with it is true or false."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


class NaT(datetime.date):
    """Stands for pandas.NaT: a date that differs from itself."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.int64(2), 2),
        (np.float32(1.5), 1.5),
        (np.float64("nan"), None),
        (math.nan, None),
        (np.bool_(True), True),
        (np.str_("Paris"), "Paris"),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ((1, np.int8(2)), [1, 2]),
        ({np.str_("a"): np.int16(1)}, {"a": 1}),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (NaT(2020, 1, 2), None),
        (NAType(), None),
        ("ü", "ü"),
        (None, None),
    ],
)
def test_a_value_of_numpy_or_pandas_becomes_one_of_json(value: Any, written: Any) -> None:
    assert json.loads(json_line({"answer": value})) == {"answer": written}


def test_a_value_that_json_cannot_have_is_refused_with_its_type() -> None:
    with pytest.raises(TypeError, match=r"\{1\} is a set; write it as text or a number"):
        json_line({"answer": {1}})


def test_a_data_frame_is_uploaded_row_by_row() -> None:
    def answer(request: Any) -> Any:
        uploads.append(request.content)
        return {"id": "file-1", "bytes": 1, "created_at": 1, "filename": "labeled.jsonl"}

    uploads: list[bytes] = []
    frame = Frame({"question": "1+1", "answer": np.int64(2)}, {"question": "?", "answer": math.nan})
    with client({"POST /tempo/v1/files": answer}) as tempo:
        tempo.files.create(frame)  # type: ignore[arg-type]
    assert b'{"question": "1+1", "answer": 2}\n{"question": "?", "answer": null}\n' in uploads[0]
