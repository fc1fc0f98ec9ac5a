"""The arms of the study, and the variants of the sweeps: methods, settings, files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tempo_lab.rows import Row
from tempo_lab.study.tuning import GRID, best

BARE = ("countdown-bare", "equation-bare")
"""The tasks of the study: without a closing verdict, which a critic need only read."""
SEEDS = tuple(range(10, 18))
DEFAULT = "tempo-default"


@dataclass(frozen=True, slots=True)
class Arm:
    """A method with its own settings, and with those of the grid that the tuning chose for it."""

    method: str
    untuned: str
    """The grid's setting until the tuning has rows."""
    own: dict[str, Any] = field(default_factory=dict)
    """Settings that make it this arm."""
    like: str = ""
    """The arm whose tuned settings it has; empty: its own."""


# The untuned settings are those that an earlier tuning chose, with the bases before fa2560e.
ARMS: dict[str, Arm] = {
    DEFAULT: Arm("tempo", "1e-3 KL 0.3", {"labeled_in_policy": True}),
    "tempo-paper": Arm("tempo", "1e-3 KL 0.3", {"labeled_in_policy": False}),
    "frozen": Arm("frozen", "3e-4 KL 0.3"),
    "ttrl": Arm("ttrl", "1e-3 KL 0.0"),
    "empo": Arm("empo", "1e-3 KL 0.0"),
    "supervised": Arm("supervised", "1e-3 KL 0.0"),
    "fine-tuning": Arm("fine-tuning", "3e-4 KL 0.0"),
    "one-label": Arm("one-label", "3e-4 KL 0.3"),
    "format": Arm("format", "3e-4 KL 0.3"),
    "random": Arm("random", "1e-3 KL 0.3", like=DEFAULT),
}
"""The arms of the main study; the first one is the one that the others are compared with."""
FURTHER: dict[str, Arm] = {
    "dissent": Arm("dissent", "1e-3 KL 0.0"),
    "trapo": Arm("trapo", "1e-3 KL 0.0"),
}
"""Arms with a loss of their own that only the sweeps have."""
TUNED = [name for name, arm in (ARMS | FURTHER).items() if not arm.like]


def settings_of(name: str, tuning: Sequence[Row]) -> dict[str, Any]:
    """Return the settings of an arm: the tuned ones where `tuning` has rows, and its own."""
    arm = (ARMS | FURTHER)[name]
    tuned = best(tuning, arm.like or name)
    return {**(GRID[arm.untuned] if tuned is None else tuned), **arm.own}


SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "votes": {
        "ttrl": {"arm": "ttrl"},
        "dissent": {"arm": "dissent"},
        "trapo": {"arm": "trapo"},
        "supervised": {"arm": "supervised"},
    },
    "pass@2 on labeled rows": {"pass@2": {"pass_k": 2}},
    "two critics": {
        "two critics": {"disagreement": 0.0},
        "two critics, λ 1": {"disagreement": 1.0},
    },
    # In the paper's form, because labeled rows in the loss would go on to teach the truth.
    "reward flipped halfway": {
        "tempo-paper": {"arm": "tempo-paper"},
        "flipped": {"arm": "tempo-paper", "flip_at": "half"},
        "flipped, gate": {"arm": "tempo-paper", "flip_at": "half", "gate": True},
    },
    "labeled questions": {
        "16 labeled": {"labeled": "labeled-16"},
        "64 labeled": {"labeled": "labeled-64"},
    },
    "distinct questions": {"768 questions": {"unlabeled": "unlabeled-768"}},
    "recalibration": {
        "every 4": {"recalibrate_every": 4},
        "every 16": {"recalibrate_every": 16},
        "never": {"recalibrate_every": 0},
    },
    "labeled share": {
        "8 of 48": {"settings": {"labeled_per_step": 8, "unlabeled_per_step": 40}},
        "32 of 48": {"settings": {"labeled_per_step": 32, "unlabeled_per_step": 16}},
    },
    "critic capacity": {
        # A step this small leaves the adapter at 0: only the head learns.
        "head only": {"settings": {"critic_learning_rate": 1e-30}},
        "rank 8": {"settings": {"critic_rank": 8}},
        "rank 32": {"settings": {"critic_rank": 32}},
    },
    "other difficulty": {"easy labeled": {"labeled": "labeled-easy"}},
}
"""Each sweep's variants beside `unchanged`, which is `tempo-default`: 256 labeled and 192 distinct
questions, 16 of the 48 questions of an iteration labeled, recalibration in each one, rank 16. A
variant has the tuned settings of its `arm`, else those of `tempo-default`."""
