"""Make the runs of a study in worker processes, and write their tables and curves.

    <folder>/config.json     every run's specification, digests of its files, settings, versions
    <folder>/runs/*.jsonl    one line per iteration
    <folder>/summary.json    and summary.md, learning.png, critic.png

The same command continues an interrupted study. The folder of another study is refused.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from transformers.utils.logging import disable_progress_bar

from tempo_lab.study.lab import Spec
from tempo_lab.study.run import run
from tempo_lab.study.summary import load, markdown, summarise
from tempo_storage.errors import ConflictError, TempoError
from tempo_storage.ledger.engine import without_nan
from tempo_trainer.versions.lineage import SETTINGS

PACKAGES = ("vllm-tempo", "torch", "transformers", "peft", "numpy", "mpmath")
POLL_SECONDS = 0.5
Studies = Mapping[Path, Sequence[Spec]]
"""The runs by the folder that they are written to."""

console = Console(highlight=False, markup=False)
_events: Any = None  # in a worker process: the queue to the process that shows the progress


def study(studies: Studies, *, processes: int = 0) -> int:
    """Make all runs that are not finished; write and show their tables. Return an exit code.

    The code is 1 if a run failed, and 130 if the study was interrupted.
    """
    for folder, specs in studies.items():
        _configure(folder, specs)
    spawn = multiprocessing.get_context("spawn")
    events = spawn.SimpleQueue()
    with ProcessPoolExecutor(_pool_size(studies, processes), spawn, _start, (events,)) as pool:
        futures = {
            (folder, spec.stem): pool.submit(_run, spec, folder)
            for folder, specs in studies.items()
            for spec in specs
        }
        total = sum(spec.iterations for specs in studies.values() for spec in specs)
        try:
            _show_progress(futures.values(), total, events)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            console.print("interrupted; the same command continues")
            return 130
    unfinished = _report_failures(futures)
    for folder, specs in studies.items():
        if folder not in unfinished:
            console.print(write(folder, specs, title=folder.name), soft_wrap=True)
            console.print(f"written to {folder}")
    return int(bool(unfinished))


def write(folder: Path, specs: Sequence[Spec], *, title: str, into: Path | None = None) -> str:
    """Write tables and curves of a folder's runs; return the tables as Markdown."""
    into = into or folder
    into.mkdir(exist_ok=True)
    k = specs[0].samples
    arms = load((spec.arm, spec.seed, folder / "runs" / f"{spec.stem}.jsonl") for spec in specs)
    tables = summarise(arms, samples=k, users=specs[0].users)
    text = markdown(tables, title=title)
    rows = {name: table.rows for name, table in tables.items()}
    (into / "summary.json").write_text(json.dumps(without_nan(rows), indent=2) + "\n")
    (into / "summary.md").write_text(text)
    try:
        from tempo_lab.study.curves import draw

        draw(arms, into, samples=k)
    except ImportError as error:
        console.print(f"no curves: {error.name} is missing; pip install 'vllm-tempo[study]'")
    return text


def add_options(parser: argparse.ArgumentParser, *, seeds: str, out: Path | None) -> None:
    """Add the options that all studies have."""
    text = "folder; an existing one is continued"
    parser.add_argument("--out", type=Path, default=out, required=out is None, help=text)
    parser.add_argument("--seeds", type=numbers, default=seeds, help="separated by commas")
    parser.add_argument("--iterations", type=positive, default=200)
    parser.add_argument("--measure-every", type=positive, default=20, help="iterations")
    text = "of the users' requests, for measurements; default: the model's generation_config, or 1"
    parser.add_argument("--temperature", type=temperature, help=text)
    parser.add_argument("--top-p", type=probability, help=text)
    parser.add_argument("--processes", type=int, default=0, help="runs at once; 0: one per core")


def numbers(text: str) -> list[int]:
    """Read numbers that are separated by commas, each once."""
    return list(dict.fromkeys(int(number) for number in text.split(",")))


def positive(text: str) -> int:
    """Read a number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def temperature(text: str) -> float:
    """Read a finite number of at least 0."""
    if not 0 <= (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no temperature; give 0 or more")
    return number


def probability(text: str) -> float:
    """Read a number above 0 and up to 1."""
    if not 0 < (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 1")
    return number


def _configure(folder: Path, specs: Sequence[Spec]) -> None:
    """Record everything that decides the runs; raise ConflictError for another study's folder."""
    config = {
        "runs": [asdict(spec) for spec in specs],
        "settings": specs[0].worker_settings().model_dump(mode="json", include=SETTINGS),
        "files": _digests(specs),
    }
    path = folder / "config.json"
    if path.is_file():
        recorded = json.loads(path.read_text())
        if any(recorded.get(key) != value for key, value in config.items()):
            raise ConflictError(f"{folder} holds another study; choose another --out or delete it")
        return
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    machine = {"versions": versions, "machine": platform.platform(), "cores": os.cpu_count()}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config | machine, indent=2) + "\n")


def _digests(specs: Sequence[Spec]) -> dict[str, str]:
    """Return the SHA-256 of each file of questions; a file may change while its path stays."""
    paths = {path for s in specs for path in (s.labeled, s.unlabeled, s.unseen)}
    files = [path for path in sorted(paths) if Path(path).is_file()]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}


def _pool_size(studies: Studies, processes: int) -> int | None:
    """Return how many runs go at once; only one if they share a server's store."""
    is_served = any(spec.sampler == "vllm" for specs in studies.values() for spec in specs)
    return 1 if is_served else processes or os.cpu_count()


def _start(events: Any) -> None:
    """Set up a worker process: one thread, because threads that wait for busy cores are slow."""
    global _events
    _events = events
    torch.set_num_threads(1)
    disable_progress_bar()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends the process, not one run only


def _run(spec: Spec, folder: Path) -> None:
    parent = os.getppid()
    last = 0

    def report(iteration: int) -> None:
        nonlocal last
        _events.put(iteration - last)
        last = iteration
        if os.getppid() != parent:  # the study has ended
            os._exit(1)

    run(spec, folder, report)


def _show_progress(futures: Collection[Future[None]], total: int, events: Any) -> None:
    """Show how many of the `total` iterations have ended, until all runs have."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("iterations", total=total)
        ended = 0
        while ended < len(futures):
            time.sleep(POLL_SECONDS)
            ended = sum(future.done() for future in futures)
            bar.update(task, description=f"{ended} of {len(futures)} runs, iterations")
            while not events.empty():
                bar.advance(task, events.get())


def _report_failures(futures: Mapping[tuple[Path, str], Future[None]]) -> set[Path]:
    """Print the error of each failed run; return the folders with a failed run."""
    failed = {key: error for key, future in futures.items() if (error := future.exception())}
    for (folder, stem), error in failed.items():
        console.print(f"{folder.name} {stem} failed: {type(error).__name__}: {error}", style="red")
        if not isinstance(error, TempoError):
            console.print(str(error.__cause__ or ""))  # the traceback from the worker process
    return {folder for folder, _ in failed}
