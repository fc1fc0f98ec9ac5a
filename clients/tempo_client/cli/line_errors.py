"""Print all lines of a file that the server refused."""

from collections.abc import Iterable, Sequence
from typing import Any


def listing(errors: Iterable[dict[str, Any]]) -> list[str]:
    """Return each reason once, with its field, its first value and all lines that have it."""
    groups: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for error in errors:
        groups.setdefault((error.get("param"), error.get("message")), []).append(error)
    lines = []
    for (name, message), group in groups.items():
        parts = [str(part) for part in (name, group[0].get("value"), message) if part]
        lines.append(f"{_runs(sorted({error['line'] for error in group}))}: {': '.join(parts)}")
    return lines


def _runs(lines: Sequence[int]) -> str:
    """Return `line 7`, or `lines 3-480, 512`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    return f"line{'s' * (len(lines) > 1)} {', '.join('-'.join(map(str, run)) for run in runs)}"
