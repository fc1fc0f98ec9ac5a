"""Reproduce the published tables on two small tasks, from nothing, on a CPU.

    python -m tempo_lab.study.cpu             # `make study-cpu`: methods on both tasks
    python -m tempo_lab.study.cpu --sweeps    # `make study-sweeps`: what moves tempo
    python -m tempo_lab.study.cpu --tune      # `make study-tune`: each method's own settings

Seeds draw the questions, the samples and the adapters; base models of two recipes alternate.
"""

import argparse
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempo_lab.study.lab import Spec
from tempo_lab.study.main import numbers, positive
from tempo_lab.study.methods import METHODS
from tempo_lab.study.plan import Studies, console, study, write
from tempo_lab.tasks import countdown, equation
from tempo_lab.tasks.base import Recipe, build_base
from tempo_storage.errors import TempoError

CACHE = Path("~/.cache/vllm-tempo").expanduser()
LABELED, UNLABELED, UNSEEN = 256, 192, 128
BASES = 2
SECONDS = {"tempo": 1.35, "frozen": 1.0, "oracle": 0.65}
"""Processor seconds of an iteration, measured; other methods take as long as `oracle`."""
WARM_UP_SECONDS, MEASURE_SECONDS = 7.0, 1.5

SETTINGS = {
    "max_response_tokens": 16,
    # Small pieces stay in the processor's cache: a fifth less time, and not another gradient.
    "tokens_per_microbatch": 2048,
    # The paper's form of tempo, unless an arm says otherwise: the critic alone carries the gain.
    "labeled_in_policy": False,
}

GRID: dict[str, dict[str, Any]] = {
    "3e-4": {"policy_learning_rate": 3e-4, "kl_coefficient": 0.0},
    "1e-3": {"policy_learning_rate": 1e-3, "kl_coefficient": 0.0},
    "3e-4 KL 0.1": {"policy_learning_rate": 3e-4, "kl_coefficient": 0.1},
    "3e-4 KL 0.3": {"policy_learning_rate": 3e-4, "kl_coefficient": 0.3},
    "1e-3 KL 0.3": {"policy_learning_rate": 1e-3, "kl_coefficient": 0.3},
}
"""What each method is tuned over, all alike, on seeds that the study never sees."""

# By `make study-tune`: the best avg@8 on the adapted questions among the settings whose pass@8 is
# at most two points below the base's; where there are none, the best avg@8. `mixed` has tempo's,
# which it was tried with beside others (trainer/README.md).
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "tempo": ("tempo", GRID["1e-3 KL 0.3"]),
    "mixed": ("tempo", GRID["1e-3 KL 0.3"] | {"labeled_in_policy": True}),
    "supervised": ("supervised", GRID["1e-3"]),
    "frozen": ("frozen", GRID["3e-4 KL 0.3"]),
    "ttrl": ("ttrl", GRID["1e-3"]),
    "empo": ("empo", GRID["1e-3"]),
    "random": ("random", GRID["3e-4"]),
}
"""Method and settings of each arm; `mixed` is tempo with labeled rows in the policy's loss."""
OMITTED = {("equation", "random")}
"""Left out for time: what it would show, countdown shows."""

Row = dict[str, object]
Rows = dict[str, list[Row]]

SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "recalibration": {
        "every 4": {"recalibrate_every": 4},
        "every 16": {"recalibrate_every": 16},
        "never": {"recalibrate_every": 0},
    },
    "labeled questions": {"16 labeled": {"labeled": "16"}, "64 labeled": {"labeled": "64"}},
    "labeled share": {
        "8 of 48": {"settings": {"labeled_per_step": 8, "unlabeled_per_step": 40}},
        "32 of 48": {"settings": {"labeled_per_step": 32, "unlabeled_per_step": 16}},
    },
    "critic capacity": {
        # A step this small leaves the adapter at its zero: only the head learns.
        "head only": {"settings": {"critic_learning_rate": 1e-30}},
        "rank 8": {"settings": {"critic_rank": 8}},
        "rank 32": {"settings": {"critic_rank": 32}},
    },
    "labeled rows in the policy": {"mixed": {"settings": {"labeled_in_policy": True}}},
    "other difficulty": {"easy labeled": {"labeled": "easy"}},
}
"""Each sweep's variants beside `default`: every step, 256 labeled, 16 of 48, rank 16, not mixed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the bases, make the runs, write the tables."""
    options = _options(arguments)
    try:
        studies = options.mode(options)
        _estimate([spec for specs in studies.values() for spec in specs], options.processes)
        code = study(studies, processes=options.processes)
        if options.mode is sweeps and code == 0:
            _write_sweeps(studies)
        return code
    except (TempoError, OSError) as error:
        console.print(f"study failed: {error}", style="red")
        return 1


def methods(options: argparse.Namespace) -> Studies:
    """Return the runs of each arm on both tasks."""
    return {
        options.out / task: [
            _variant(replace(spec, method=method, name=arm), {"settings": settings})
            for spec in _specs(task, options)
            for arm, (method, settings) in ARMS.items()
            if (task, arm) not in OMITTED
        ]
        for task in RECIPES
    }


def sweeps(options: argparse.Namespace) -> Studies:
    """Return the runs of tempo's variants on countdown."""
    variants: dict[str, dict[str, Any]] = {"default": {}}
    variants |= {k: v for sweep in SWEEPS.values() for k, v in sweep.items()}
    return {
        options.out: [
            _variant(replace(spec, name=name), change)
            for spec in _specs("countdown", options)
            for name, change in variants.items()
        ]
    }


def tune(options: argparse.Namespace) -> Studies:
    """Return the runs of each method that can learn with each of the grid's settings."""
    tuned = [method for method in METHODS if method not in ("random", "oracle")]
    change = [(method, name) for method in tuned for name in GRID]
    return {
        options.out: [
            _variant(
                replace(spec, method=method, name=f"{method} {name}"), {"settings": GRID[name]}
            )
            for spec in _specs("countdown", options)
            for method, name in change
        ]
    }


def _variant(spec: Spec, change: Mapping[str, Any]) -> Spec:
    settings = {**spec.settings, **change.get("settings", {})}
    labeled = spec.labeled
    if "labeled" in change:
        labeled = str(Path(labeled).with_name(f"labeled-{change['labeled']}.jsonl"))
    every = change.get("recalibrate_every", spec.recalibrate_every)
    return replace(spec, settings=settings, labeled=labeled, recalibrate_every=every)


def _specs(task: str, options: argparse.Namespace) -> Iterator[Spec]:
    """Yield tempo's run for each seed, with its files written and its base built."""
    recipes = [replace(RECIPES[task], seed=number) for number in range(BASES)]
    bases = _bases(recipes, options.processes)
    for seed in options.seeds:
        files = {
            name: _write(options.out / "data" / f"{task}-{seed}" / f"{name}.jsonl", rows)
            for name, rows in ROWS[task](seed).items()
        }
        yield Spec(
            method="tempo",
            seed=seed,
            model=str(bases[seed % BASES]),
            labeled=files["labeled"],
            unlabeled=files["unlabeled"],
            unseen=files["unseen"],
            iterations=options.iterations,
            measure_every=options.measure_every,
            honest=f"tempo_lab.tasks.{task}:is_honest",
            settings=SETTINGS,
        )


def _countdown_rows(seed: int) -> Rows:
    """Draw puzzles; the easy ones have many solutions and are in no other file."""
    split = countdown.split(seed, labeled=LABELED, unlabeled=UNLABELED, unseen=UNSEEN)
    used = {*split.labeled, *split.unlabeled, *split.unseen}
    others = [puzzle for puzzle in countdown.puzzles() if puzzle not in used]
    drawn = random.Random(seed).sample(others, 4 * LABELED)
    easy = sorted(drawn, key=lambda p: -len(countdown.solutions(p)))[:LABELED]
    sets = {"labeled": split.labeled, "unlabeled": split.unlabeled, "unseen": split.unseen}
    sets |= {"labeled-16": split.labeled[:16], "labeled-64": split.labeled[:64]}
    sets |= {"labeled-easy": tuple(easy)}
    return {name: [countdown.labeled_row(puzzle) for puzzle in own] for name, own in sets.items()}


def _equation_rows(seed: int) -> Rows:
    rows = [equation.labeled_row(e) for e in equation.draw(seed, LABELED + UNLABELED + UNSEEN)]
    labeled, asked, unseen = rows[:LABELED], rows[LABELED:-UNSEEN], rows[-UNSEEN:]
    return {"labeled": labeled, "unlabeled": asked, "unseen": unseen}


# Equations are learned sooner: 1,200 steps leave about as much to learn as 2,000 of countdown.
RECIPES = {"countdown": Recipe(), "equation": Recipe(task=equation.EQUATION, steps=1200)}
ROWS: dict[str, Callable[[int], Rows]] = {
    "countdown": _countdown_rows,
    "equation": _equation_rows,
}


def _write(path: Path, rows: Sequence[Row]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.is_file() or path.read_text() != text:  # a run may be reading it
        path.write_text(text)
    return str(path)


def _bases(recipes: Sequence[Recipe], processes: int) -> list[Path]:
    """Return the base models, building those that are not there side by side."""
    context = multiprocessing.get_context("spawn")
    text = f"the {recipes[0].task.name} base models, about 5 minutes each if they are not there"
    with (
        console.status(text),
        ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool,
    ):
        return list(pool.map(_base, recipes))


def _base(recipe: Recipe) -> Path:
    return build_base(CACHE, recipe=recipe, threads=1)


def _estimate(specs: Sequence[Spec], processes: int) -> None:
    """Say how long it may take; the progress bar knows better after some minutes."""
    workers = processes or os.cpu_count() or 1
    total = sum(
        WARM_UP_SECONDS * METHODS[spec.method].critic
        + spec.iterations * SECONDS.get(spec.method, SECONDS["oracle"])
        + (spec.iterations / spec.measure_every + 1) * MEASURE_SECONDS
        for spec in specs
    )
    console.print(
        f"{len(specs)} runs, {sum(s.iterations for s in specs):,} iterations: about"
        f" {total / 60 / workers:.0f} minutes with {workers} processes on cores as fast as ours"
    )


def _write_sweeps(studies: Studies) -> None:
    """Write one table per sweep."""
    for folder, specs in studies.items():
        for sweep, variants in SWEEPS.items():
            own = [spec for spec in specs if spec.arm in {"default", *variants}]
            write(folder, own, title=sweep, into=folder / sweep.replace(" ", "-"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.set_defaults(mode=methods)
    for flag, mode, text in (
        ("--sweeps", sweeps, "variants of tempo, not methods"),
        ("--tune", tune, "each method with each of a few settings"),
    ):
        parser.add_argument(flag, dest="mode", action="store_const", const=mode, help=text)
    parser.add_argument("--out", type=Path, default=Path("build/study"), help="continued if there")
    parser.add_argument("--seeds", type=numbers, default="10,11,12,13,14")
    parser.add_argument("--iterations", type=positive, default=200)
    parser.add_argument("--measure-every", type=positive, default=20)
    parser.add_argument("--processes", type=int, default=0, help="runs at once; 0: one per core")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
