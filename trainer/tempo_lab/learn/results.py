"""The rows of `make learn`: gains with their intervals, a table, a picture and examples."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_lab import rows as lines
from tempo_lab.learn.run import Plan
from tempo_lab.rows import Row
from tempo_lab.serving.scores import MEASURES
from tempo_trainer.algorithm.intervals import t_interval

OUT = Path("trainer/tempo_lab/results")
PICTURES = Path("trainer/docs/figures")
TAIL = 0.025  # beyond each bound of a 95 % interval
PARTS = ("unseen", "asked")
MEASURED = ("tempo_lab/learn/questions.py", "tempo_lab/learn/run.py", "tempo_trainer/algorithm")
"""The files that decide a run."""

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Values of each question by part of the set and measurement."""


def append(path: Path, plan: Plan, run: Mapping[str, Any]) -> None:
    """Add the row of a run."""
    row = {
        "set": plan.questions.name,
        "seed": plan.seed,
        "iterations": plan.iterations,
        "settings": plan.settings,
        "base": means(run["base"]),
        "served": means(run["served"]),
        "gain": gains(run["base"], run["served"]),
    }
    rest = {name: run[name] for name in ("serving", "minutes", "rounds", "examples")}
    lines.append(path, [row | rest], measured=MEASURED)


def read(path: Path) -> list[Row]:
    """Return the rows of a file; none if it does not exist."""
    return lines.read(path)


def is_made(plan: Plan, made: Sequence[Row]) -> bool:
    """Tell whether the rows have this run."""
    wanted = (plan.questions.name, plan.seed, plan.iterations, plan.settings)
    return any(
        (row["set"], row["seed"], row["iterations"], row["settings"]) == wanted for row in made
    )


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
    """Return the rows as a Markdown table, and the examples of the first row of each set."""
    head = (
        "| set | questions | accuracy | seeds | base | served | change in points, 95 % interval |"
    )
    text = [head, "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["set"] for row in rows):
        runs = [row for row in rows if row["set"] == name]
        text += _table_rows(name, runs)
    for row in {row["set"]: row for row in reversed(rows)}.values():
        text += ["", f"{row['set']}, seed {row['seed']}, greedy answers:", *_examples(row)]
    return "\n".join(text)


def _table_rows(name: str, runs: Sequence[Row]) -> Iterator[str]:
    for part in PARTS:
        for measure, about in MEASURES.items():
            base, served = (
                np.mean([run[version][part][measure] for run in runs])
                for version in ("base", "served")
            )
            changes = [run["gain"][part][measure] for run in runs]
            per_seed = ", ".join(_shown(change) for change in changes)
            if len(runs) > 1:
                over = _rounded(np.array([change[0] for change in changes]))
                per_seed = f"{_shown(over)} over seeds; each: {per_seed}"
            seeds = ", ".join(str(run["seed"]) for run in runs)
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

    names = list(dict.fromkeys(row["set"] for row in rows))
    size = (3.2 * len(MEASURES), 3.2 * len(names))
    figure, axes = pyplot.subplots(
        len(names), len(MEASURES), figsize=size, squeeze=False, layout="constrained", sharey="row"
    )
    panels = [(name, measure) for name in names for measure in MEASURES]
    for axis, (name, measure) in zip(axes.flat, panels, strict=True):
        for row in (row for row in rows if row["set"] == name):
            values = [row[version]["unseen"][measure] for version in ("base", "served")]
            reach = (row["gain"]["unseen"][measure][2] - row["gain"]["unseen"][measure][1]) / 2
            label = f"seed {row['seed']}"
            axis.errorbar([0, 1], values, [0, reach], marker="o", capsize=3, label=label)
        axis.set(title=f"{name}: {MEASURES[measure]}", xticks=[0, 1], ylim=(0, 1))
        axis.title.set_fontsize(9)
        axis.set_xticklabels(["base", "served"])
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    path = folder / "learn.png"
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path


def _rounded(differences: Any) -> list[float]:
    interval = t_interval(differences, tail=TAIL)
    return [round(value, 4) for value in (interval.mean, interval.low, interval.high)]


def _shown(change: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in change)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
