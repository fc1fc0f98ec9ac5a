"""Simulate how success is judged, and write the tables: gate, sentinel, critics, intervals.

    python -m tempo_lab.simulation.main      # `make simulation`: half an hour on two cores

Each row is a line of `<out>/<table>.jsonl`. Its `commit` is the last one that changed a file which
the table measures, with a + if such a file was changed since. A row that is there already is kept,
so the same command continues. `--fresh` begins anew.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from tempo_lab.rows import Row, append, last_commit, read
from tempo_lab.simulation import coverage, critics, deployments, promotions, rollbacks

PARAMETERS = ("questions", "spread", "serving", "held out")
OUT = Path("trainer/docs/figures/simulation")
TABLES = ("rollbacks", "deployments", "critics", "coverage")  # beside `promotions`
LIVES = 1_500
POWERS = 1_000
ROLLBACKS = 1_000
DEPLOYMENTS = 200
SIMULATED = ("promotions", "rollbacks", "deployments")
INTERVALS = "tempo_trainer/algorithm/intervals.py"
JUDGES = (
    *("tempo_trainer/versions/gate.py", "tempo_trainer/versions/answers.py"),
    *("tempo_trainer/jobs/sentinel.py", INTERVALS, "tempo_trainer/algorithm/metrics.py"),
    *(f"tempo_lab/simulation/{name}.py" for name in ("worlds", *SIMULATED)),
)
MEASURED = {
    "coverage": (INTERVALS, "tempo_lab/simulation/coverage.py"),
    "critics": (
        *("tempo_trainer/algorithm/fitness.py", "tempo_trainer/algorithm/within.py"),
        *(INTERVALS, "tempo_trainer/algorithm/metrics.py", "tempo_lab/simulation/critics.py"),
    ),
    "rollbacks": JUDGES,
    "deployments": JUDGES,
    "promotions": JUDGES,
}
"""The files that each table measures."""

console = Console(highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the rows that are missing, print all tables as Markdown, and return 0."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        for path in options.out.glob("*.jsonl"):
            path.unlink()
    start = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        paths = {
            pool.submit(simulate, *arguments): options.out / f"{arguments[0]}.jsonl"
            for arguments in _missing(options.out, options.scale)
        }
        for future in as_completed(paths):
            path = paths[future]
            append(path, future.result(), measured=MEASURED[path.stem])
            console.print(f"{time.monotonic() - start:5.0f} s: {path.stem}")
    for path in sorted(options.out.glob("*.jsonl")):
        rows = read(path)
        console.print(f"\n## {path.stem}\n\n{markdown(rows)}", soft_wrap=True)
        if any(row["commit"] != last_commit(MEASURED[path.stem]) for row in rows):
            console.print("The measured files have changed since; --fresh makes the rows anew.")
    return 0


def simulate(table: str, scale: float, setting: promotions.Setting | None = None) -> list[Row]:
    """Return the rows of a table; of `promotions` the row of one setting."""
    match table:
        case "coverage":
            return coverage.rows()
        case "critics":
            return critics.rows()
        case "rollbacks":
            return list(rollbacks.rows(repetitions=round(ROLLBACKS * scale)))
        case "deployments":
            return list(deployments.rows(repetitions=round(DEPLOYMENTS * scale)))
    assert setting is not None
    lives = round(LIVES * scale)
    return [promotions.row(setting, lives=lives, powers=round(POWERS * scale))]


def _missing(out: Path, scale: float) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of `simulate` for all that the folder does not hold."""
    for table in TABLES:
        if not (out / f"{table}.jsonl").exists():
            yield table, scale
    made = read(out / "promotions.jsonl")
    for setting in promotions.settings():
        if not _is_made(setting, made):
            yield "promotions", scale, setting


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "commit"))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nMade at {commits} by `make simulation`."


def _is_made(setting: promotions.Setting, rows: Iterable[Row]) -> bool:
    kind = setting.kind
    values = (kind.name, kind.spread, kind.serving_gain, setting.questions)
    return any(tuple(row[name] for name in PARAMETERS) == values for row in rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder")
    parser.add_argument("--fresh", action="store_true", help="delete the rows that are there")
    parser.add_argument("--processes", type=int, default=2, help="settings at once")
    text = "repetitions as a share of the default, for a quick look"
    parser.add_argument("--scale", type=float, default=1.0, help=text)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
