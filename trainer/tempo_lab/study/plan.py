"""Make the runs of a study in worker processes, and write what they found.

    <folder>/config.json     every run's specification, digests of its files, settings, versions
    <folder>/runs/*.jsonl    one line per iteration
    <folder>/summary.json    and summary.md, learning.png, critic.png

The same command continues an interrupted study; a folder of another study is refused.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Mapping, Sequence
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

PACKAGES = ("vllm-tempo", "torch", "transformers", "peft", "numpy", "math-verify")
POLL_SECONDS = 0.5
Studies = Mapping[Path, Sequence[Spec]]
"""The runs by the folder that they are written to."""

console = Console(highlight=False, markup=False)
_events: Any = None


def study(studies: Studies, *, processes: int = 0) -> int:
    """Make all runs that are not finished, write and show what they found; 1 if one failed."""
    for folder, specs in studies.items():
        _configure(folder, specs)
    context = multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    with ProcessPoolExecutor(_at_once(studies, processes), context, _begin, (events,)) as pool:
        futures = {
            (f, s.stem): pool.submit(_run, s, f) for f, specs in studies.items() for s in specs
        }
        try:
            _watch(futures, sum(s.iterations for own in studies.values() for s in own), events)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            console.print("interrupted; the same command continues")
            return 130
    failed = {key: error for key, future in futures.items() if (error := future.exception())}
    for (folder, stem), error in failed.items():
        console.print(f"{folder.name} {stem} failed: {type(error).__name__}: {error}", style="red")
        if not isinstance(error, TempoError):
            console.print(str(error.__cause__ or ""))  # the traceback from the worker process
    unfinished = {folder for folder, _ in failed}
    for folder, specs in studies.items():
        if folder not in unfinished:
            console.print(write(folder, specs, title=folder.name), soft_wrap=True)
            console.print(f"written to {folder}")
    return int(bool(failed))


def write(folder: Path, specs: Sequence[Spec], *, title: str, into: Path | None = None) -> str:
    """Write tables and curves of a folder's runs; return the tables as Markdown."""
    into, k = into or folder, specs[0].samples
    into.mkdir(exist_ok=True)
    arms = load((spec.arm, spec.seed, folder / "runs" / f"{spec.stem}.jsonl") for spec in specs)
    tables = summarise(arms, samples=k)
    (into / "summary.json").write_text(json.dumps(without_nan(tables), indent=2) + "\n")
    (into / "summary.md").write_text(text := markdown(tables, title=title))
    try:
        from tempo_lab.study.curves import draw

        draw(arms, into, samples=k)
    except ImportError as error:
        console.print(f"no curves: {error.name} is missing; pip install 'vllm-tempo[study]'")
    return text


def _configure(folder: Path, specs: Sequence[Spec]) -> None:
    """Record what decides the runs; refuse a folder that was made with something else."""
    settings = specs[0].trainer_settings().model_dump(mode="json", include=SETTINGS)
    wanted = {"runs": [asdict(spec) for spec in specs], "settings": settings}
    wanted["files"] = _digests(specs)
    path = folder / "config.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if any(found.get(key) != value for key, value in wanted.items()):
            raise ConflictError(f"{folder} holds another study; choose another --out or delete it")
        return
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.platform(), "cores": os.cpu_count()}
    path.write_text(json.dumps(wanted | {"versions": versions} | machine, indent=2) + "\n")


def _digests(specs: Sequence[Spec]) -> dict[str, str]:
    """Return the SHA-256 of each file of questions: what a path holds may change between runs."""
    paths = {path for s in specs for path in (s.labeled, s.unlabeled, s.unseen)}
    files = [path for path in sorted(paths) if Path(path).is_file()]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}


def _at_once(studies: Studies, processes: int) -> int | None:
    """Return how many runs may go on together: those that share a server's store, one by one."""
    served = any(spec.sampler == "vllm" for specs in studies.values() for spec in specs)
    return 1 if served else processes or os.cpu_count()


def _begin(events: Any) -> None:
    """Set up a worker: one thread, since threads that wait for busy cores crawl."""
    global _events
    _events = events
    torch.set_num_threads(1)
    disable_progress_bar()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it, and not one run only


def _run(spec: Spec, folder: Path) -> None:
    parent = os.getppid()

    def report(iteration: int) -> None:
        _events.put((folder, spec.stem, iteration))
        if os.getppid() != parent:  # nobody waits for it any more
            os._exit(1)

    run(spec, folder, report)


def _watch(futures: Mapping[tuple[Path, str], Future[None]], total: int, events: Any) -> None:
    """Show how many iterations of all runs have ended, until all have."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    done: dict[tuple[Path, str], int] = {}
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("iterations", total=total)
        ended = 0
        while ended < len(futures):
            time.sleep(POLL_SECONDS)
            ended = sum(future.done() for future in futures.values())
            while not events.empty():
                folder, stem, iteration = events.get()
                done[folder, stem] = iteration
            text = f"{ended} of {len(futures)} runs, iterations"
            bar.update(task, completed=sum(done.values()), description=text)
