"""Write labeled questions of Python as JSON, with the values of numpy and pandas.

Neither package is needed or imported: a value is known by its methods.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def rows_of(labeled: Any) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a pandas DataFrame, or the mappings themselves."""
    rows: Iterable[Mapping[str, Any]] = labeled
    if hasattr(labeled, "to_dict"):
        rows = labeled.to_dict("records")
    return rows


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as JSON; a number that is missing in pandas, NaN, becomes null."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; raise TypeError for one that JSON cannot have."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # a scalar or an array of numpy
        return _plain(value.tolist())
    if hasattr(value, "isoformat"):  # a date, and pandas' NaT, which is not equal to itself
        return value.isoformat() if value == value else None
    if type(value).__name__ == "NAType":  # pandas.NA
        return None
    raise TypeError(f"{value!r} is a {type(value).__name__}; write it as text or a number")
