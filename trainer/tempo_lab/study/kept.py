"""Finished runs as small rows that are committed, so that a later study resumes them.

A row has an arm, a seed, all settings, the commit, and the mean of each measurement. The figures of
single questions are not kept, so tables over several seeds come out the same, and those of one seed
have no interval.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tempo_lab import rows
from tempo_lab.rows import Row
from tempo_lab.study.lab import Spec

MEASURED = (
    "tempo_lab/study",
    "tempo_lab/tasks",
    "tempo_trainer/algorithm",
    "tempo_trainer/settings.py",
)
"""The files that decide a run."""
PLACES = {
    "model",
    "labeled",
    "unlabeled",
    "unseen",
}  # paths of the machine; the seed decides the files


def restore(path: Path, specs: Iterable[Spec], folder: Path) -> int:
    """Write the files of runs that have a row and no file; return their number."""
    made = {_key(row["run"]): row for row in rows.read(path)}
    count = 0
    for spec in specs:
        file = folder / "runs" / f"{spec.stem}.jsonl"
        row = made.get(_key(_described(spec)))
        if row is None or file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in row["lines"]))
        count += 1
    return count


def keep(path: Path, specs: Iterable[Spec], folder: Path) -> int:
    """Add a row for each finished run that has none; return their number."""
    made = {_key(row["run"]) for row in rows.read(path)}
    new: list[Row] = []
    for spec in specs:
        run = _described(spec)
        file = folder / "runs" / f"{spec.stem}.jsonl"
        if _key(run) in made or not file.is_file():
            continue
        lines = [json.loads(text) for text in file.read_text().splitlines()]
        if lines[-1]["iteration"] == spec.iterations:
            new.append({"run": run, "lines": compact(lines, spec.seed)})
    rows.append(path, new, measured=MEASURED)
    return len(new)


def compact(lines: Sequence[Mapping[str, Any]], seed: int) -> list[Row]:
    """Return the measured lines of a run, with a mean in place of the figures of each question."""
    sets = list(lines[0]["questions"])
    kept = [_means(line, sets) for line in lines if any(name in line for name in sets)]
    kept[0]["questions"] = {name: [f"all of seed {seed}"] for name in sets}
    kept[-1]["refused"] = sum("refusal" in line for line in lines)
    return kept


def _means(line: Mapping[str, Any], sets: Sequence[str]) -> Row:
    figures: Row = {name: line[name] for name in ("iteration", "sampled", "seconds")}
    figures |= {name: _mean_figures(line[name]) for name in sets if name in line}
    for part in ("critic", "reward"):
        if part in line:
            figures[part] = {name: round(value, 4) for name, value in line[part].items()}
    if "scaled" in line:
        figures["scaled"] = {
            scale: {name: _mean_figures(part[name]) for name in sets if name in part}
            for scale, part in line["scaled"].items()
        }
    return figures


def _mean_figures(figures: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {metric: [float(np.mean(values))] for metric, values in figures.items()}


def _described(spec: Spec) -> dict[str, Any]:
    """Return all that decides a run, without the paths of this machine."""
    return {name: value for name, value in asdict(spec).items() if name not in PLACES}


def _key(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)
