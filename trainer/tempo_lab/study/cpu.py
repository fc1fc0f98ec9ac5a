"""Reproduce the published tables on two small tasks, from nothing, on a CPU.

    python -m tempo_lab.study.cpu             # `make study-cpu`: the methods on both tasks
    python -m tempo_lab.study.cpu --sweeps    # `make study-sweeps`: one change to tempo at a time
    python -m tempo_lab.study.cpu --tune      # `make study-tune`: settings for each method

Seeds draw the questions, the samples and the adapters. Base models of two recipes alternate.
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

from tempo_lab.study.kept import keep, restore
from tempo_lab.study.lab import Spec
from tempo_lab.study.plan import Studies, add_options, console, study, write
from tempo_lab.study.sampling import users_decoding
from tempo_lab.tasks import countdown, equation
from tempo_lab.tasks.base import CACHE, Recipe, build_base
from tempo_storage.errors import TempoError

LABELED = 256
UNLABELED = 192
UNSEEN = 128
BASES = 2
KEPT = Path("trainer/tempo_lab/results")

SETTINGS = {
    "max_response_tokens": 16,
    # Small pieces stay in the processor's cache: a fifth less time, and the same gradient.
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
"""The settings among which each method is tuned, on seeds that the study never uses."""

# `make study-tune` chose them: the best avg@8 on the adapted questions among the settings whose
# pass@8 is at most two points below the base's; if there are none, the best avg@8. `tempo-default`
# has the settings of `tempo-paper`; trainer/docs/results.md has others that were tried. They were
# chosen with the bases before fa2560e; those of the last three arms are not tuned yet.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "tempo-paper": ("tempo", GRID["1e-3 KL 0.3"]),
    "tempo-default": ("tempo", GRID["1e-3 KL 0.3"] | {"labeled_in_policy": True}),
    "supervised": ("supervised", GRID["1e-3"]),
    "frozen": ("frozen", GRID["3e-4 KL 0.3"]),
    "ttrl": ("ttrl", GRID["1e-3"]),
    "empo": ("empo", GRID["1e-3"]),
    "fine-tuning": ("fine-tuning", GRID["3e-4"]),
    "one-label": ("one-label", GRID["3e-4 KL 0.3"]),
    "format": ("format", GRID["3e-4 KL 0.3"]),
    "random": ("random", GRID["3e-4"]),
}
"""Method and settings of each arm. The forms of tempo are the paper's, with unlabeled rows only in
the policy's loss, and the product's default, with labeled rows in it, too."""
TUNED = ("tempo-paper", *(arm for arm in ARMS if not arm.startswith("tempo") and arm != "random"))
OMITTED = {("equation", "random")}
"""Left out to save time: countdown shows that `random` does not gain."""

Rows = dict[str, list[dict[str, object]]]
"""The lines of each file of questions, by its name."""

SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "recalibration": {
        "every 4": {"recalibrate_every": 4},
        "every 16": {"recalibrate_every": 16},
        "never": {"recalibrate_every": 0},
    },
    "labeled questions": {
        "16 labeled": {"labeled": "labeled-16"},
        "64 labeled": {"labeled": "labeled-64"},
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
    "labeled rows in the policy": {"tempo-default": {"settings": {"labeled_in_policy": True}}},
    "other difficulty": {"easy labeled": {"labeled": "labeled-easy"}},
}
"""Each sweep's variants beside `unchanged`: recalibration in every iteration, 256 labeled
questions, 16 of the 48 questions of an iteration labeled, rank 16, and `tempo-paper`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the bases, make the runs and write the tables; return 1 if a run failed."""
    options = _options(arguments)
    try:
        studies = options.mode(options)
        for folder, specs in studies.items():
            restored = restore(options.kept / f"{folder.name}.jsonl", specs, folder)
            console.print(f"{folder.name}: {restored} runs were made before")
        code = study(studies, processes=options.processes)
        for folder, specs in studies.items():
            keep(options.kept / f"{folder.name}.jsonl", specs, folder)
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
            _variant(spec, name=arm, method=method, settings=settings)
            for spec in _specs(task, options)
            for arm, (method, settings) in ARMS.items()
            if (task, arm) not in OMITTED
        ]
        for task in RECIPES
    }


def sweeps(options: argparse.Namespace) -> Studies:
    """Return the runs of tempo's variants on countdown."""
    variants: dict[str, dict[str, Any]] = {"unchanged": {}}
    for sweep in SWEEPS.values():
        variants |= sweep
    return {
        options.out: [
            _variant(spec, name=name, **changes)
            for spec in _specs("countdown", options)
            for name, changes in variants.items()
        ]
    }


def tune(options: argparse.Namespace) -> Studies:
    """Return the runs of each method that can learn with each of the grid's settings."""
    return {
        options.out: [
            _variant(spec, name=f"{arm} {name}", method=ARMS[arm][0], settings=settings)
            for spec in _specs("countdown", options)
            for arm in TUNED
            for name, settings in GRID.items()
        ]
    }


def _variant(
    spec: Spec,
    *,
    labeled: str = "labeled",
    settings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Spec:
    """Return a run with another file of labels, more settings, or other fields of Spec."""
    path = Path(spec.labeled).with_name(f"{labeled}.jsonl")
    own = {**spec.settings, **(settings or {})}
    return replace(spec, labeled=str(path), settings=own, **changes)


def _specs(task: str, options: argparse.Namespace) -> Iterator[Spec]:
    """Yield tempo's run for each seed, with its files written and its base built."""
    recipes = [replace(RECIPES[task], seed=number) for number in range(BASES)]
    bases = _bases(recipes, options.processes)
    for seed in options.seeds:
        files = {
            name: _write(options.out / "data" / f"{task}-{seed}" / f"{name}.jsonl", rows)
            for name, rows in ROWS[task](seed).items()
        }
        model = str(bases[seed % BASES])
        yield Spec(
            method="tempo",
            seed=seed,
            model=model,
            labeled=files["labeled"],
            unlabeled=files["unlabeled"],
            unseen=files["unseen"],
            iterations=options.iterations,
            measure_every=options.measure_every,
            users=users_decoding(model, options.temperature, options.top_p),
            honest=f"tempo_lab.tasks.{task}:is_honest",
            settings=SETTINGS,
        )


def _countdown_rows(seed: int) -> Rows:
    """Draw puzzles; the easy ones have many solutions and are in no other file."""
    split = countdown.split(seed, labeled=LABELED, unlabeled=UNLABELED, unseen=UNSEEN)
    used = {*split.labeled, *split.unlabeled, *split.unseen}
    others = [p for p in countdown.puzzles() if not p.is_for_base and p not in used]
    candidates = random.Random(seed).sample(others, 4 * LABELED)
    easy = sorted(candidates, key=lambda p: -len(countdown.solutions(p)))[:LABELED]
    files = {
        "labeled": split.labeled,
        "unlabeled": split.unlabeled,
        "unseen": split.unseen,
        "labeled-16": split.labeled[:16],
        "labeled-64": split.labeled[:64],
        "labeled-easy": easy,
    }
    return {name: [countdown.labeled_row(p) for p in puzzles] for name, puzzles in files.items()}


def _equation_rows(seed: int) -> Rows:
    rows = [equation.labeled_row(e) for e in equation.draw(seed, LABELED + UNLABELED + UNSEEN)]
    return {
        "labeled": rows[:LABELED],
        "unlabeled": rows[LABELED:-UNSEEN],
        "unseen": rows[-UNSEEN:],
    }


# Equations are learned sooner: 1,200 steps leave about as much to learn as 2,000 of countdown.
RECIPES = {"countdown": Recipe(), "equation": Recipe(task=equation.EQUATION, steps=1200)}
ROWS: dict[str, Callable[[int], Rows]] = {
    "countdown": _countdown_rows,
    "equation": _equation_rows,
}


def _write(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.is_file() or path.read_text() != text:  # a run may be reading it
        path.write_text(text)
    return str(path)


def _bases(recipes: Sequence[Recipe], processes: int) -> list[Path]:
    """Return the base models; build the missing ones at the same time."""
    context = multiprocessing.get_context("spawn")
    text = f"the {recipes[0].task.name} base models, about 5 minutes each if they are not there"
    with console.status(text), ProcessPoolExecutor(processes or os.cpu_count(), context) as pool:
        futures = [pool.submit(build_base, CACHE, recipe=recipe, threads=1) for recipe in recipes]
        return [future.result() for future in futures]


def _write_sweeps(studies: Studies) -> None:
    """Write one table per sweep."""
    for folder, specs in studies.items():
        for sweep, variants in SWEEPS.items():
            own = [spec for spec in specs if spec.arm in {"unchanged", *variants}]
            write(folder, own, title=sweep, into=folder / sweep.replace(" ", "-"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.set_defaults(mode=methods)
    for flag, mode, text in (
        ("--sweeps", sweeps, "variants of tempo instead of methods"),
        ("--tune", tune, "each method with each of a few settings"),
    ):
        parser.add_argument(flag, dest="mode", action="store_const", const=mode, help=text)
    add_options(parser, seeds="10,11,12,13,14,15,16,17", out=Path("build/study"))
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="folder of the rows of finished runs"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
