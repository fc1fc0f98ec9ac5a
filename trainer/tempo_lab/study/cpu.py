"""Reproduce the published tables on small tasks, from nothing, on a CPU.

    python -m tempo_lab.study.cpu --tune      # `make study-tune`: settings for each arm
    python -m tempo_lab.study.cpu             # `make study-cpu`: the arms on both tasks
    python -m tempo_lab.study.cpu --sweeps    # `make study-sweeps`: one change at a time

Seeds draw the questions, the samples and the adapters. Base models of two recipes alternate. Each
finished run is kept as a row, so the same command goes on where an earlier one ended.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tempo_lab import rows
from tempo_lab.rows import Row
from tempo_lab.serving.scores import USERS
from tempo_lab.study.arms import (
    ARMS,
    BARE,
    DEFAULT,
    FURTHER,
    SEEDS,
    SWEEPS,
    TUNED,
    settings_of,
)
from tempo_lab.study.kept import keep, restore
from tempo_lab.study.lab import Spec
from tempo_lab.study.plan import Studies, add_options, console, study, write
from tempo_lab.study.small import TASKS, specs
from tempo_lab.study.tuning import GRID, run_name
from tempo_storage.errors import TempoError

KEPT = Path("trainer/tempo_lab/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the bases, make the runs and write the tables; return 1 if a run failed."""
    options = _options(arguments)
    try:
        studies = options.mode(options)
        for folder, own in studies.items():
            restored = restore(_kept(options, folder.name), own, folder)
            console.print(f"{folder.name}: {restored} runs were made before")
        code = study(studies, processes=options.processes)
        for folder, own in studies.items():
            keep(_kept(options, folder.name), own, folder)
        if options.mode is sweeps and code == 0:
            _write_sweeps(studies)
        return code
    except (TempoError, OSError) as error:
        console.print(f"study failed: {error}", style="red")
        return 1


def methods(options: argparse.Namespace) -> Studies:
    """Return the runs of each arm on each task."""
    return {
        options.out / task: [
            _variant(spec, tuning, arm, name=arm)
            for spec in specs(task, options)
            for arm in _chosen(options, ARMS)
        ]
        for task in options.tasks
        for tuning in [_tuning(options, task)]
    }


def sweeps(options: argparse.Namespace) -> Studies:
    """Return the runs of the variants of tempo, and of further arms, on the first task."""
    task = options.tasks[0]
    tuning = _tuning(options, task)
    variants: dict[str, dict[str, Any]] = {"unchanged": {}}
    for sweep in SWEEPS.values():
        variants |= sweep
    return {
        options.out / f"sweeps-{task}": [
            _variant(spec, tuning, name=name, **variants[name])
            for spec in specs(task, options)
            for name in _chosen(options, variants)
        ]
    }


def tune(options: argparse.Namespace) -> Studies:
    """Return the runs of each arm that learns with each setting of the grid, on each task."""
    every = options.iterations  # the rule reads the end only
    return {
        options.out / f"tune-{task}": [
            replace(
                _variant(spec, [], arm, name=run_name(arm, name), settings=settings),
                measure_every=every,
            )
            for spec in specs(task, options)
            for arm in _chosen(options, TUNED)
            for name, settings in GRID.items()
        ]
        for task in options.tasks
    }


def _variant(
    spec: Spec,
    tuning: Sequence[Row],
    arm: str = DEFAULT,
    *,
    labeled: str = "labeled",
    unlabeled: str = "unlabeled",
    settings: Mapping[str, Any] | None = None,
    flip_at: str = "",
    **changes: Any,
) -> Spec:
    """Return the run of an arm with other files, more settings, or other fields of Spec."""
    folder = Path(spec.labeled).parent
    own = {**spec.settings, **settings_of(arm, tuning), **(settings or {})}
    return replace(
        spec,
        method=(ARMS | FURTHER)[arm].method,
        labeled=str(folder / f"{labeled}.jsonl"),
        unlabeled=str(folder / f"{unlabeled}.jsonl"),
        flip_at=spec.iterations // 2 if flip_at == "half" else 0,
        settings=own,
        **changes,
    )


def _chosen(options: argparse.Namespace, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the names that the command asks for."""
    return [name for name in names if not options.arms or name in options.arms]


def _tuning(options: argparse.Namespace, task: str) -> list[Row]:
    """Return the rows of the tuning on a task."""
    return rows.read(_kept(options, f"tune-{task}"))


def _kept(options: argparse.Namespace, study_name: str) -> Path:
    path: Path = options.kept / f"{study_name}.jsonl"
    return path


def _write_sweeps(studies: Studies) -> None:
    """Write one table per sweep."""
    for folder, own in studies.items():
        for sweep, variants in SWEEPS.items():
            compared = [spec for spec in own if spec.arm in {"unchanged", *variants}]
            if len({spec.arm for spec in compared}) > 1:
                write(folder, compared, title=sweep, into=folder / sweep.replace(" ", "-"))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.set_defaults(mode=methods)
    for flag, mode, text in (
        ("--sweeps", sweeps, "variants of tempo and further arms, on the first task"),
        ("--tune", tune, "each arm with each setting of the grid"),
    ):
        parser.add_argument(flag, dest="mode", action="store_const", const=mode, help=text)
    add_options(parser, seeds=",".join(map(str, SEEDS)), out=Path("build/study"))
    parser.set_defaults(temperature=USERS.temperature)  # as the users of the demo ask
    text = f"separated by commas: {', '.join(TASKS)}"
    parser.add_argument("--tasks", type=_tasks, default=list(BARE), help=text)
    text = "only these, separated by commas; default: all of the command's arms or variants"
    parser.add_argument("--arms", type=lambda names: names.split(","), default=[], help=text)
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="folder of the rows of finished runs"
    )
    return parser.parse_args(arguments)


def _tasks(text: str) -> list[str]:
    """Read names of tasks that are separated by commas."""
    names = text.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; choose from {', '.join(TASKS)}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
