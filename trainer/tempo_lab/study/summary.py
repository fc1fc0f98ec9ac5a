"""Tables of a folder's runs: each arm at the end, and all arms after equal time.

An arm is a method with its settings; it has one run per seed. Differences are paired: the same
question, the same seed, two arms. A question that several seeds share counts once, with the mean
over seeds. Intervals are 95 % bootstrap intervals over questions. Beside them stands the number of
seeds that agree.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempo_lab.study.measurement import METRICS
from tempo_trainer.algorithm.metrics import paired_bootstrap
from tempo_trainer.algorithm.reports import mean

AT_K = ("avg", "pass", "maj")
CRITIC = ("auroc", "ece", "advantage_cosine")
Vector = NDArray[np.floating]


class Run:
    """The lines of one run that hold a measurement."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        self.questions: dict[str, list[str]] = lines[0]["questions"]
        self.lines = [line for line in lines if any(name in line for name in self.questions)]
        self.scales: dict[str, dict[str, Any]] = self.lines[-1].get("scaled", {})
        self.refused = sum("refusal" in line for line in lines)
        self.seconds = float(lines[-1]["seconds"])
        self.iterations = int(lines[-1]["iteration"])

    def at(self, name: str, metric: str, axis: str, x: float) -> Vector:
        """Return a metric of each question of the set `name` at x, interpolated linearly.

        `axis` is `iteration` or `seconds`.
        """
        table = np.array([line[name][metric] for line in self.lines])  # (lines, questions)
        places = np.array([line[axis] for line in self.lines])
        place = np.interp(x, places, np.arange(len(places)))
        below = int(place)
        above = min(below + 1, len(places) - 1)
        between: Vector = table[below] + (place - below) * (table[above] - table[below])
        return between

    def scaled(self, scale: str) -> "Run":
        """Return the run as if its last policy had its adapter at a scale."""
        other = copy(self)
        other.lines = [*self.lines[:-1], {**self.lines[-1], **self.scales[scale]}]
        return other

    def curve(self, name: str, metric: str) -> list[float]:
        """Return a metric's mean at each measurement of a set, or of `critic`."""
        values = [line[name].get(metric) for line in self.lines if name in line]
        return [np.nan if value is None else float(np.mean(value)) for value in values]


Arms = Mapping[str, Mapping[int, Run]]
"""Runs by arm and seed."""


def load(paths: Iterable[tuple[str, int, Path]]) -> Arms:
    """Read the runs that have begun, from arm, seed and file of each."""
    arms: dict[str, dict[int, Run]] = {}
    for arm, seed, path in paths:
        if path.is_file():
            arms.setdefault(arm, {})[seed] = Run(path)
    return arms


def summarise(arms: Arms, *, samples: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table by its title; other arms are compared with the first arm."""
    runs = [run for seeds in arms.values() for run in seeds.values()]
    end = min(run.iterations for run in runs)
    seconds = min(mean([run.seconds for run in seeds.values()]) for seeds in arms.values())
    scaled = _scaled(arms)
    tables = {}
    for name in runs[0].questions:
        last = partial(_row, {**arms, **scaled}, name=name, axis="iteration", x=end, k=samples)
        soon = partial(_row, arms, name=name, axis="seconds", x=seconds, k=samples)
        rows = [last(arm) | _run_figures(own, name) for arm, own in arms.items()]
        tables[f"{name}: after {end} iterations of training"] = [last("base"), *rows]
        tables[f"{name}: after {seconds:.0f} seconds of training"] = [*map(soon, ("base", *arms))]
        if scaled:
            tables[f"{name}: after {end} iterations, adapters scaled"] = [*map(last, scaled)]
    return tables


def _scaled(arms: Arms) -> Arms:
    """Return each finished arm at each scale of its adapter, named after both."""
    return {
        f"{arm} × {scale}": {seed: run.scaled(scale) for seed, run in runs.items()}
        for arm, runs in arms.items()
        for scale in runs[min(runs)].scales
        if all(run.scales for run in runs.values())
    }


def _row(arms: Arms, arm: str, *, name: str, axis: str, x: float, k: int) -> dict[str, Any]:
    """Return an arm's row on the set `name` at x; an unknown arm is the base, which is at 0."""
    first, reference = next(iter(arms.items()))
    runs = arms.get(arm, reference)
    place = x if arm in arms else 0
    row: dict[str, Any] = {"arm": arm}
    for metric in (m for m in METRICS if m in reference[min(reference)].lines[0][name]):
        means = [run.at(name, metric, axis, place).mean() for run in runs.values()]
        row[f"{metric}@{k}" if metric in AT_K else metric] = mean(means)
    for metric in ("avg", "pass") if arm in arms else ():
        row[f"gain, {metric}@{k}"] = difference(runs, runs, name, metric, (axis, x), (axis, 0))
        paired = difference(reference, runs, name, metric, (axis, x), (axis, x))
        row[f"{first} − arm, {metric}@{k}"] = None if arm == first else paired
    return row


def _run_figures(runs: Mapping[int, Run], name: str) -> dict[str, Any]:
    """Return the figures of whole runs: peak, the last critic, refused M-steps and seconds."""
    row: dict[str, Any] = {"peak": mean([max(run.curve(name, "avg")) for run in runs.values()])}
    for metric in CRITIC:
        curves = [run.curve("critic", metric) for run in runs.values()]
        row[metric] = mean([curve[-1] for curve in curves if curve])
    row["refused"] = round(mean([run.refused for run in runs.values()]))
    row["seconds"] = round(mean([run.seconds for run in runs.values()]))
    return row


def difference(
    ones: Mapping[int, Run],
    others: Mapping[int, Run],
    name: str,
    metric: str,
    here: tuple[str, float],
    there: tuple[str, float],
) -> dict[str, Any]:
    """Return the mean of one − other, its 95 % interval over questions, and each seed's mean.

    `here` and `there` are axis and x of the one and of the other.
    """
    by_question: dict[str, list[float]] = defaultdict(list)
    seeds = {}
    for seed in sorted(ones.keys() & others.keys()):
        values = ones[seed].at(name, metric, *here) - others[seed].at(name, metric, *there)
        seeds[str(seed)] = round(float(values.mean()), 4)
        for question, value in zip(ones[seed].questions[name], values, strict=True):
            by_question[question].append(float(value))
    means = np.array([np.mean(values) for values in by_question.values()])
    bounds = asdict(paired_bootstrap(means, tail=0.025)) if seeds else {}
    return {bound: round(value, 4) for bound, value in bounds.items()} | {"seeds": seeds}


def markdown(tables: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> str:
    """Return the tables; a difference is in points, with interval, and seeds above 0 of all."""
    parts = [f"# {title}"]
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [columns, ["---", *["---:"] * (len(columns) - 1)]]
        cells += [[_cell(row.get(column)) for column in columns] for row in rows]
        parts += ["", f"## {name}", "", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        if not value["seeds"]:
            return ""
        mean, low, high = (f"{100 * value[bound]:+.1f}" for bound in ("mean", "low", "high"))
        positive = sum(seed > 0 for seed in value["seeds"].values())
        return f"{mean} [{low}, {high}] {positive}/{len(value['seeds'])}"
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return "" if value is None else str(value)
