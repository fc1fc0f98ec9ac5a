"""A base model that has barely learned, and a few equations, for the tests of the study."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Self

from tempo_lab.study.lab import Spec
from tempo_lab.tasks import equation
from tempo_lab.tasks.base import Recipe, build_base
from tempo_lab.tasks.task import Exercise
from tempo_trainer.sampling import verifiers
from tempo_trainer.sampling.verifier_pool import Item
from tempo_trainer.sampling.verifiers import Verdict


def few() -> Iterator[Exercise]:
    """Yield some of the equations; tables of all of them take seconds."""
    return islice(equation.exercises(), 0, None, 50)


RECIPE = Recipe(
    hidden=16,
    layers=1,
    heads=2,
    intermediate=16,
    steps=60,
    warmup=5,
    batch=32,
    task=replace(equation.EQUATION, exercises=few),
)
SETTINGS = {
    "lora_rank": 4,
    "critic_rank": 4,
    "lora_alpha": 8,
    "device": "cpu",
    "group_size": 4,
    "labeled_per_step": 4,
    "unlabeled_per_step": 4,
    "held_out_per_step": 2,
    "warm_up_steps": 1,
    "warm_up_questions": 4,
    "max_response_tokens": 9,
    "minimum_advantage_std": 0.0,
    "policy_learning_rate": 0.02,
}


class Verifiers:
    """Verifiers in this process, in the place of the pool of processes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._loaded = {name: verifiers.load(name) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        return [self._loaded[i.verifier].verify(i.response, i.reference, i.metadata) for i in items]


@cache
def base() -> Path:
    """Return the directory of the base model, built once for all tests."""
    directory = Path(tempfile.mkdtemp(prefix="tempo-study-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return build_base(directory, recipe=RECIPE, threads=1)


def write(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def spec(directory: Path, **changed: object) -> Spec:
    """Return a run of a few iterations; its files are written to `directory`."""
    rows = [equation.labeled_row(e) for e in equation.draw(0, 60)]
    small = {
        "labeled": write(directory / "labeled.jsonl", rows[:40]),
        "unlabeled": write(directory / "unlabeled.jsonl", rows[40:54]),
        "method": "tempo",
        "seed": 0,
        "model": str(base()),
        "iterations": 5,
        "measure_every": 2,
        "save_every": 2,
        "samples": 2,
        "settings": SETTINGS,
    }
    return Spec(**(small | changed))
