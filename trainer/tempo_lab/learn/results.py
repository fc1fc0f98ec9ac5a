"""The rows of `make learn`: gains with their intervals, a table, a picture and examples."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_lab.learn.run import Plan
from tempo_lab.rows import Row, write
from tempo_lab.serving.scores import MEASURES
from tempo_trainer.algorithm.intervals import t_interval

OUT = Path("trainer/tempo_lab/results")
PICTURES = Path("trainer/docs/figures")
TAIL = 0.025  # beyond each bound of a 95 % interval
PARTS = ("unseen", "asked")

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Values of each question by part of the set and measurement."""


def append(path: Path, run: Mapping[str, Any]) -> None:
    """Add the row of a run: means and gains in the place of the figures of single questions."""
    figures = {
        "base": means(run["base"]),
        "served": means(run["served"]),
        "gain": gains(run["base"], run["served"]),
    }
    write(path, [{**run, **figures}])


def is_made(plan: Plan, made: Sequence[Row]) -> bool:
    """Tell whether the rows have this run."""
    return any({name: row[name] for name in plan.row} == plan.row for row in made)


def means(scores: Scores) -> dict[str, dict[str, float]]:
    """Return the mean over the questions of each measurement."""
    return {
        part: {name: round(float(np.mean(values)), 4) for name, values in measured.items()}
        for part, measured in scores.items()
    }


def gains(base: Scores, served: Scores) -> dict[str, dict[str, list[float]]]:
    """Return mean, lower and upper bound of each gain, paired by question; the unit is a question.

    The bounds are those of a 95 % interval.
    """
    return {
        part: {
            name: _rounded(np.array(served[part][name]) - np.array(base[part][name]))
            for name in base[part]
        }
        for part in base
    }


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = (
        "| set | questions | accuracy | seeds | base | served | change in points, 95 % interval |"
    )
    text = [head, "|---|---|---|---|---|---|---|"]
    for name, runs in grouped(rows).items():
        text += _table_rows(name, runs)
    return "\n".join(text)


def examples(rows: Sequence[Row]) -> str:
    """Return questions with both greedy answers, of the first row of each group."""
    text = []
    for name, runs in grouped(rows).items():
        text += [f"{name}, seed {runs[0]['seed']}, greedy answers:", *_examples(runs[0])]
    return "\n".join(text)


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows that differ in their seed alone, by a name of what they share."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        settings = "".join(f", {name}={value}" for name, value in row["settings"].items())
        name = f"{row['set']}, {row['model']}, 2 × {row['iterations']} iterations{settings}"
        groups.setdefault(name, []).append(row)
    return groups


def _table_rows(name: str, runs: Sequence[Row]) -> Iterator[str]:
    for part in PARTS:
        for measure, about in MEASURES.items():
            base, served = (
                np.mean([run[version][part][measure] for run in runs])
                for version in ("base", "served")
            )
            changes = [run["gain"][part][measure] for run in runs]
            per_seed = ", ".join(shown(change) for change in changes)
            if len(runs) > 1:
                over = _rounded(np.array([change[0] for change in changes]))
                per_seed = f"{shown(over)} over seeds; each: {per_seed}"
            seeds = ", ".join(f"{run['seed']} ({run['serving']})" for run in runs)
            yield (
                f"| {name} | {part} | {about} | {seeds} | {base:.3f} | {served:.3f} | {per_seed} |"
            )


def _examples(row: Row) -> Iterator[str]:
    for example in row["examples"]:
        yield f"  {example['question']}  (right: {example['answer']})"
        for version in ("base", "served"):
            yield f"    {version}: {' '.join(example[version].split())}"


def draw(rows: Sequence[Row], folder: Path) -> Path:
    """Write `learn.png`: accuracy on unseen questions of base and served version, by seed.

    Raises ImportError without matplotlib, which nothing else needs.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = grouped(rows)
    names = list(groups)
    size = (3.2 * len(MEASURES), 3.2 * len(names))
    figure, axes = pyplot.subplots(
        len(names), len(MEASURES), figsize=size, squeeze=False, layout="constrained", sharey="row"
    )
    panels = [(name, measure) for name in names for measure in MEASURES]
    for axis, (name, measure) in zip(axes.flat, panels, strict=True):
        for row in groups[name]:
            values = [row[version]["unseen"][measure] for version in ("base", "served")]
            reach = (row["gain"]["unseen"][measure][2] - row["gain"]["unseen"][measure][1]) / 2
            label = f"seed {row['seed']}"
            axis.errorbar([0, 1], values, [0, reach], marker="o", capsize=3, label=label)
        axis.set(title=f"{name}\n{MEASURES[measure]}", xticks=[0, 1], ylim=(0, 1))
        axis.title.set_fontsize(7)
        axis.set_xticklabels(["base", "served"])
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "learn.png"
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path


def _rounded(differences: Any) -> list[float]:
    interval = t_interval(differences, tail=TAIL)
    return [round(value, 4) for value in (interval.mean, interval.low, interval.high)]


def shown(change: Sequence[float]) -> str:
    """Return mean, lower and upper bound of a change in points."""
    mean, low, high = (100 * value for value in change)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
