"""Tables of a folder's runs: each arm at the end, and all arms after equal time.

An arm is a method with its settings; it has one run per seed. Differences are paired: the same
question, the same seed, two arms. The seed is the unit of an interval, because all questions of a
seed share its two runs, and runs differ from each other. With one seed the unit is the question.
Intervals are 95 % intervals by Student's t. Beside them stands the number of seeds that agree.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempo_lab.study.measurement import METRICS, PASS_K
from tempo_lab.study.pseudo import COLLAPSED
from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.algorithm.intervals import Interval, t_interval
from tempo_trainer.algorithm.reports import mean

AT_K = ("users", "avg", "pass", "maj")
COMPARED = ("greedy", "users", "avg", "pass")
"""Metrics of which the tables have differences."""
SAME = 1e-9  # a smaller difference is a rounding error
CRITIC = ("within_auroc", "auroc", "ece")
DISAGREEMENT = ("spread", "spread_error")
"""Figures that only two critics have."""
Vector = NDArray[np.floating]


class Run:
    """The lines of one run that hold a measurement."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        self.questions: dict[str, list[str]] = lines[0]["questions"]
        self.lines = [line for line in lines if any(name in line for name in self.questions)]
        self.scales: dict[str, dict[str, Any]] = self.lines[-1].get("scaled", {})
        # A run that was kept as a row has no line for each iteration, but their number.
        self.refused = lines[-1].get("refused", sum("refusal" in line for line in lines))
        self.seconds = float(lines[-1]["seconds"])
        self.iterations = int(lines[-1]["iteration"])

    def at(self, name: str, metric: str, axis: str, x: float) -> Vector:
        """Return a metric of each question of the set `name` at x, interpolated linearly.

        `axis` is `iteration` or `seconds`. A metric that the run does not have is not a number.
        """
        missing = [np.nan] * len(self.questions[name])
        figures = [line[name].get(metric, missing) for line in self.lines]
        table = np.array(figures)  # (lines, questions)
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

    @property
    def collapse_step(self) -> int | None:
        """The iteration of the first measurement whose reward is hardly ever true; None: none."""
        steps = zip(self.lines, self.curve("reward", "accuracy"), strict=False)
        return next((line["iteration"] for line, share in steps if share < COLLAPSED), None)


Arms = Mapping[str, Mapping[int, Run]]
"""Runs by arm and seed."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table, and the sentences above them."""

    caption: str
    rows: Sequence[Mapping[str, Any]]


def load(paths: Iterable[tuple[str, int, Path]]) -> Arms:
    """Read the runs that have begun, from arm, seed and file of each."""
    arms: dict[str, dict[int, Run]] = {}
    for arm, seed, path in paths:
        if path.is_file():
            arms.setdefault(arm, {})[seed] = Run(path)
    return arms


def summarise(arms: Arms, *, samples: int, users: Decoding) -> dict[str, Table]:
    """Return each table by its title; other arms are compared with the first arm.

    `samples` is the number of responses to each question in a measurement, and `users` is how the
    users draw tokens.
    """
    runs = [run for seeds in arms.values() for run in seeds.values()]
    end = min(run.iterations for run in runs)
    seconds = min(mean([run.seconds for run in seeds.values()]) for seeds in arms.values())
    scaled = _scaled(arms)
    tables: dict[str, Table] = {}
    for name in runs[0].questions:
        last = partial(_row, {**arms, **scaled}, name=name, axis="iteration", x=end, k=samples)
        soon = partial(_row, arms, name=name, axis="seconds", x=seconds, k=samples)
        rows = [last(arm) | _run_figures(own, name) for arm, own in arms.items()]
        own_tables = {
            f"{name}: after {end} iterations of training": [last("base"), *rows],
            f"{name}: after {seconds:.0f} seconds of training": [*map(soon, ("base", *arms))],
            f"{name}: after {end} iterations, adapters scaled": [*map(last, scaled)],
        }
        note = caption(arms, name, users=users)
        tables |= {title: Table(note, rows) for title, rows in own_tables.items() if rows}
    return tables


def caption(arms: Arms, name: str, *, users: Decoding) -> str:
    """Say how the users of a set of questions draw tokens, and what the intervals cover."""
    seeds = {seed for runs in arms.values() for seed in runs}
    draws = {tuple(run.questions[name]) for runs in arms.values() for run in runs.values()}
    if len(seeds) == 1:
        coverage = (
            "The unit of the intervals is the question, because there is one seed. They cover other"
            " questions; they do not cover other runs."
        )
    elif len(draws) < len(seeds):
        coverage = (
            "The unit of the intervals is the seed. The seeds share their questions, so the"
            " intervals cover other runs; they do not cover other questions."
        )
    else:
        coverage = (
            "The unit of the intervals is the seed. Each seed has its own questions, so the"
            " intervals cover other runs and other questions."
        )
    return f"{_users_sampling(users)} Other columns are at temperature 1. {coverage}"


def _users_sampling(users: Decoding) -> str:
    if users.is_greedy:
        return "Users sample greedily, as in the column `greedy`."
    if users == PLAIN:
        return "Users sample at temperature 1, as in the column `avg`."
    return (
        f"The column `users` is at the users' sampling: temperature {users.temperature:g},"
        f" top-p {users.top_p:g}, top-k {users.top_k or 'off'}."
    )


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
    metrics = _metrics(arms, name)
    for metric in metrics:
        means = [run.at(name, metric, axis, place).mean() for run in runs.values()]
        row[label(metric, k)] = mean(means)
    for metric in (m for m in metrics if m in COMPARED and arm in arms):
        title = label(metric, k)
        row[f"gain, {title}"] = difference(runs, runs, name, metric, (axis, x), (axis, 0))
        paired = difference(reference, runs, name, metric, (axis, x), (axis, x))
        row[f"{first} − arm, {title}"] = None if arm == first else paired
    return row


def _metrics(arms: Arms, name: str) -> list[str]:
    """Return the METRICS that any run has; earlier versions did not measure all of them."""
    runs = [run for seeds in arms.values() for run in seeds.values()]
    return [metric for metric in METRICS if any(metric in run.lines[0][name] for run in runs)]


def label(metric: str, samples: int) -> str:
    """Return the name of a metric with its number of responses: pass is estimated for 8."""
    k = min(PASS_K, samples) if metric == "pass" else samples
    return f"{metric}@{k}" if metric in AT_K else metric


def _run_figures(runs: Mapping[int, Run], name: str) -> dict[str, Any]:
    """Return the figures of whole runs: peak, the last critic and reward, and the collapse.

    Beside them stand the refused M-steps and the seconds.
    """
    row: dict[str, Any] = {"peak": mean([max(run.curve(name, "avg")) for run in runs.values()])}
    row |= {metric: _last(runs, "critic", metric) for metric in CRITIC}
    spreads = {metric: _last(runs, "critic", metric) for metric in DISAGREEMENT}
    row |= {metric: value for metric, value in spreads.items() if not np.isnan(value)}
    row["reward accuracy"] = _last(runs, "reward", "accuracy")
    row["majority share"] = _last(runs, "reward", "majority_share")
    row["model collapse step"] = _collapse(runs)
    row["refused"] = round(mean([run.refused for run in runs.values()]))
    row["seconds"] = round(mean([run.seconds for run in runs.values()]))
    return row


def _last(runs: Mapping[int, Run], part: str, metric: str) -> float:
    """Return the mean over runs of the last figure of the critic or of the reward."""
    curves = [run.curve(part, metric) for run in runs.values()]
    return mean([curve[-1] for curve in curves if curve])


def _collapse(runs: Mapping[int, Run]) -> str | None:
    """Return the mean step at which runs collapsed, and their number; None without a reward."""
    if np.isnan(_last(runs, "reward", "accuracy")):
        return None
    steps = [step for run in runs.values() if (step := run.collapse_step) is not None]
    return f"{mean(steps):.0f} ({len(steps)}/{len(runs)})" if steps else f"none of {len(runs)}"


def difference(
    ones: Mapping[int, Run],
    others: Mapping[int, Run],
    name: str,
    metric: str,
    here: tuple[str, float],
    there: tuple[str, float],
) -> dict[str, Any]:
    """Return the mean of one − other, its 95 % interval, the unit and each seed's mean.

    The unit is the seed, or the question if the arms have only one seed in common. Units that are
    all equal say nothing about their spread, so their bounds are not numbers. `here` and `there`
    are axis and x of the one and of the other.
    """
    by_seed = {
        str(seed): ones[seed].at(name, metric, *here) - others[seed].at(name, metric, *there)
        for seed in sorted(ones.keys() & others.keys())
    }
    means = {seed: float(values.mean()) for seed, values in by_seed.items()}
    is_one = len(by_seed) == 1
    units = next(iter(by_seed.values())) if is_one else np.array(list(means.values()))
    interval = t_interval(units, tail=0.025)
    if len(units) and np.ptp(units) < SAME:
        interval = Interval(interval.mean, np.nan, np.nan)
    return {
        **{bound: round(value, 4) for bound, value in asdict(interval).items()},
        "unit": "question" if is_one else "seed",
        "seeds": {seed: round(value, 4) for seed, value in means.items()},
    }


def markdown(tables: Mapping[str, Table], *, title: str) -> str:
    """Return the tables; a difference is in points, with interval, and seeds above 0 of all."""
    parts = [f"# {title}"]
    for name, table in tables.items():
        columns = list(dict.fromkeys(column for row in table.rows for column in row))
        cells = [columns, ["---", *["---:"] * (len(columns) - 1)]]
        cells += [[_cell(row.get(column)) for column in columns] for row in table.rows]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        parts += ["", f"## {name}", "", table.caption, "", *lines]
    return "\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return _difference_cell(value)
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return "" if value is None else str(value)


def _difference_cell(value: Mapping[str, Any]) -> str:
    """Return for example `+1.2 [-0.4, +2.8] 4/5`, with the unit if it is not the seed."""
    if np.isnan(value["mean"]):
        return ""
    mean, low, high = (f"{100 * value[bound]:+.1f}" for bound in ("mean", "low", "high"))
    positive = sum(seed > 0 for seed in value["seeds"].values())
    unit = " by question" if value["unit"] == "question" else ""
    interval = "" if np.isnan(value["low"]) else f" [{low}, {high}]"
    return f"{mean}{interval} {positive}/{len(value['seeds'])}{unit}"
