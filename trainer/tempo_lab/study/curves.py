"""Curves as PNG: the figures of each arm's policy and critic over iterations."""

from pathlib import Path

import numpy as np

from tempo_lab.study.summary import CRITIC, Arms, label

TITLES = {"within_auroc": "AUROC within questions", "auroc": "AUROC", "ece": "ECE"}


def draw(arms: Arms, folder: Path, *, samples: int) -> None:
    """Write `learning.png` and `critic.png`: means over seeds, shaded from smallest to largest.

    Raises ImportError without matplotlib, which nothing else needs.
    """
    import matplotlib

    matplotlib.use("Agg")
    sets = list(next(iter(next(iter(arms.values())).values())).questions)
    _figure(arms, sets, ("greedy", "avg", "pass", "entropy"), folder / "learning.png", samples)
    _figure(arms, ["critic"], CRITIC, folder / "critic.png", samples)


def _figure(arms: Arms, sets: list[str], metrics: tuple[str, ...], path: Path, k: int) -> None:
    from matplotlib import pyplot

    size = (13, 3.6 * len(sets))
    grid = (len(sets), len(metrics))
    figure, axes = pyplot.subplots(*grid, figsize=size, squeeze=False, layout="constrained")
    panels = [(name, metric) for name in sets for metric in metrics]
    for axis, (name, metric) in zip(axes.flat, panels, strict=True):
        for number, (arm, runs) in enumerate(arms.items()):
            curves = [curve for run in runs.values() if (curve := run.curve(name, metric))]
            shortest = min(map(len, curves), default=0)
            if not shortest:
                continue
            table = np.array([curve[:shortest] for curve in curves])  # (seeds, measurements)
            x = [line["iteration"] for line in next(iter(runs.values())).lines][:shortest]
            axis.plot(x, table.mean(0), label=arm, color=f"C{number}")
            axis.fill_between(x, table.min(0), table.max(0), color=f"C{number}", alpha=0.12)
        title = TITLES.get(metric, label(metric, k))
        axis.set(title=f"{name}: {title}", xlabel="iteration")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
