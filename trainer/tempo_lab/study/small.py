"""The small tasks of the study: base models, files of questions, and the runs of a seed."""

import json
import multiprocessing
import os
import random
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tempo_lab.study.lab import Spec
from tempo_lab.study.plan import console
from tempo_lab.study.sampling import users_decoding
from tempo_lab.tasks import countdown, equation
from tempo_lab.tasks.base import CACHE, Recipe, build_base

LABELED = 256
UNLABELED = 192
MANY = 768
UNSEEN = 128
BASES = 2
SETTINGS = {
    "max_response_tokens": 16,
    # Small pieces stay in the processor's cache: a fifth less time, and the same gradient.
    "tokens_per_microbatch": 2048,
}
Rows = dict[str, list[dict[str, object]]]
"""The lines of each file of questions, by its name."""


@dataclass(frozen=True, slots=True)
class SmallTask:
    """A task with the recipe of its bases, its questions, and its test of honest work."""

    recipe: Recipe
    rows: Callable[[int], Rows]
    """Return the files of a seed."""
    honest: str
    """`module:function` of an IsHonest."""


def countdown_rows(seed: int, *, bare: bool = False) -> Rows:
    """Draw puzzles; the easy ones have many solutions and are in no other file."""
    split = countdown.split(seed, labeled=LABELED, unlabeled=UNLABELED, unseen=UNSEEN)
    used = {*split.labeled, *split.unlabeled, *split.unseen}
    others = [p for p in countdown.puzzles() if not p.is_for_base and p not in used]
    candidates = random.Random(seed).sample(others, 4 * LABELED)
    easy = sorted(candidates, key=lambda p: -len(countdown.solutions(p)))[:LABELED]
    more = [p for p in others if p not in easy]
    files = {
        "labeled": split.labeled,
        "unlabeled": split.unlabeled,
        "unseen": split.unseen,
        "labeled-16": split.labeled[:16],
        "labeled-64": split.labeled[:64],
        "labeled-easy": easy,
        "unlabeled-768": [
            *split.unlabeled,
            *random.Random(seed).sample(more, MANY - UNLABELED),
        ],
    }
    return {
        name: [countdown.labeled_row(p, bare=bare) for p in puzzles]
        for name, puzzles in files.items()
    }


def bare_countdown_rows(seed: int) -> Rows:
    """Draw the same puzzles, with bare solutions."""
    return countdown_rows(seed, bare=True)


def equation_rows(seed: int, *, bare: bool = False) -> Rows:
    """Draw equations."""
    drawn = equation.draw(seed, LABELED + UNLABELED + UNSEEN)
    rows = [equation.labeled_row(e, bare=bare) for e in drawn]
    return {
        "labeled": rows[:LABELED],
        "unlabeled": rows[LABELED:-UNSEEN],
        "unseen": rows[-UNSEEN:],
    }


def bare_equation_rows(seed: int) -> Rows:
    """Draw the same equations, with bare solutions."""
    return equation_rows(seed, bare=True)


# Equations are learned sooner: 1,200 steps leave about as much to learn as 2,000 of countdown.
COUNTDOWN = Recipe()
EQUATION = Recipe(task=equation.EQUATION, steps=1200)
BARE_COUNTDOWN = replace(COUNTDOWN, task=countdown.BARE_COUNTDOWN)
BARE_EQUATION = replace(EQUATION, task=equation.BARE_EQUATION)
PLACE = "tempo_lab.tasks"
TASKS = {
    task.recipe.task.name: task
    for task in (
        SmallTask(BARE_COUNTDOWN, bare_countdown_rows, f"{PLACE}.countdown:is_honest_bare"),
        SmallTask(BARE_EQUATION, bare_equation_rows, f"{PLACE}.equation:is_honest_bare"),
        SmallTask(COUNTDOWN, countdown_rows, f"{PLACE}.countdown:is_honest"),
        SmallTask(EQUATION, equation_rows, f"{PLACE}.equation:is_honest"),
    )
}


def specs(name: str, options: Namespace) -> Iterator[Spec]:
    """Yield tempo's run for each seed, with its files written and its base built."""
    task = TASKS[name]
    recipes = [replace(task.recipe, seed=number) for number in range(BASES)]
    bases = build_bases(recipes, options.processes)
    for seed in options.seeds:
        folder = options.out / "data" / f"{name}-{seed}"
        files = {
            file: _write(folder / f"{file}.jsonl", rows) for file, rows in task.rows(seed).items()
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
            honest=task.honest,
            settings=SETTINGS,
        )


def build_bases(recipes: Sequence[Recipe], processes: int) -> list[Path]:
    """Return the base models; build the missing ones at the same time."""
    context = multiprocessing.get_context("spawn")
    text = f"the {recipes[0].task.name} base models, about 5 minutes each if they are not there"
    with console.status(text), ProcessPoolExecutor(processes or os.cpu_count(), context) as pool:
        futures = [pool.submit(build_base, CACHE, recipe=recipe, threads=1) for recipe in recipes]
        return [future.result() for future in futures]


def _write(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if not path.is_file() or path.read_text() != text:  # a run may be reading it
        path.write_text(text)
    return str(path)
