"""Tune each arm alike, and choose its settings by a rule from the rows of `make study-tune`.

An arm may choose among six settings, and among four scales of its adapter: the runs of the tuning
measure the scales at their end, at no cost of training. The tuning has a seed of its own.

The rule: of the choices whose pass@8 on unseen questions is at most three points below the base's,
take the one with the highest accuracy on unseen questions as users sample. If no choice keeps
pass@8, take the highest accuracy of all.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from tempo_lab.rows import Row

PASS_LOSS = 0.03
GRID: dict[str, dict[str, Any]] = {
    f"{rate} KL {kl}": {"policy_learning_rate": float(rate), "kl_coefficient": kl}
    for rate in ("3e-4", "1e-3")
    for kl in (0.0, 0.1, 0.3)
}


class Choice(NamedTuple):
    """A setting of the grid at a scale, with its mean figures over the seeds of the tuning."""

    settings: Mapping[str, Any]
    accuracy: float
    lost_pass: float

    @property
    def keeps_pass(self) -> bool:
        """Whether pass@8 stays near the base's."""
        return self.lost_pass <= PASS_LOSS


def run_name(arm: str, setting: str) -> str:
    """Return the name of an arm's run with a setting of the grid."""
    return f"{arm} {setting}"


def best(rows: Sequence[Row], arm: str) -> Mapping[str, Any] | None:
    """Return the settings that the rule chooses for an arm; None if a setting has no row."""
    runs = {
        setting: [row for row in rows if row["run"]["name"] == run_name(arm, setting)]
        for setting in GRID
    }
    if not all(runs.values()):
        return None
    choices = [choice for setting, own in runs.items() for choice in _choices(setting, own)]
    kept = [choice for choice in choices if choice.keeps_pass]
    return max(kept or choices, key=lambda choice: choice.accuracy).settings


def _choices(setting: str, rows: Sequence[Row]) -> Iterator[Choice]:
    """Yield the choices with a setting of the grid: the whole adapter, and each of its scales."""
    for scale in ("1", *rows[0]["lines"][-1].get("scaled", {})):
        last = [_at_scale(row["lines"][-1], scale) for row in rows]
        first = [row["lines"][0] for row in rows]
        scaled = {} if scale == "1" else {"serving_scale": float(scale)}
        lost = _mean(first, "pass") - _mean(last, "pass")
        yield Choice(GRID[setting] | scaled, _mean(last, "users"), round(lost, 4))


def _at_scale(line: Row, scale: str) -> Row:
    figures: Row = line if scale == "1" else line["scaled"][scale]
    return figures


def _mean(lines: Sequence[Row], metric: str) -> float:
    """Return the mean of a metric on unseen questions; users at temperature 1 have `avg`."""
    own = "avg" if metric not in lines[0]["unseen"] else metric
    return fmean(fmean(line["unseen"][own]) for line in lines)
