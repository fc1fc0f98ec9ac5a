"""Kill -9 at every file operation of a save: the save is whole or absent, leftovers are swept."""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import CONFIG, WEIGHTS
from safetensors.numpy import save_file

from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import NotFoundError
from tempo_trainer.learning import checkpoint

pytestmark = pytest.mark.fault(
    2,
    "kill -9 at any step of a save",
    promise="the save is whole or absent; leftovers are swept",
)

BASE = "tiny"
BIG = 4_000_000
MOMENTS = 40
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


def is_killed(work: Callable[[], object], *, at: int = 0, after: float = 30.0) -> bool:
    """Do the work in a child that dies at its file operation number `at`, or after some seconds."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a process as abruptly as SIGKILL
        number = itertools.count(1)

        def hook(event: str, _arguments: tuple[object, ...]) -> None:
            if event in FILE_EVENTS and next(number) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        signal.setitimer(signal.ITIMER_REAL, after)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def write(directory: Path) -> None:
    (directory / CONFIG).write_text(json.dumps({"r": 8}))
    save_file({"w": np.ones(4096, np.float32)}, directory / WEIGHTS)
    (directory / "probe.json").write_text("{}")


def publish(store: AdapterStore, name: str) -> None:
    store.publish(name, write, base=BASE)


def test_an_adapter_is_whole_or_absent_wherever_its_writer_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    store = AdapterStore(tmp_path)
    kills = 0
    whole = 0
    publish(store, "tempo-v1")
    while is_killed(lambda: publish(store, "tempo-v2"), at=kills + 1):
        kills += 1
        for name in store.names():
            store.verify(name, store.manifest(name).files, base=BASE, rank=16)
        whole += "tempo-v2" in store.names()
        store.sweep_unfinished()
        assert {path.name for path in tmp_path.iterdir()} <= {"tempo-v1", "tempo-v2"}
        assert "tempo-v1" in store.names()
    record_property("observed", f"adapter: {kills} kills, {whole} whole, the others absent")
    assert kills > whole > 0
    store.verify("tempo-v2", store.manifest("tempo-v2").files, base=BASE, rank=16)


def test_a_checkpoint_is_whole_or_absent_whenever_its_writer_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    state = {"weights": torch.ones(BIG)}
    checkpoint.save(tmp_path, "job-1", state)  # the first save is slow
    start = time.monotonic()
    checkpoint.save(tmp_path, "job-1", state)
    seconds = time.monotonic() - start
    kills = 0
    whole = 0
    for part in range(1, MOMENTS + 1):
        kills += is_killed(
            lambda: checkpoint.save(tmp_path, "job-2", state), after=1.5 * seconds * part / MOMENTS
        )
        with contextlib.suppress(NotFoundError):
            assert checkpoint.load(tmp_path, "job-2")["weights"].sum() == BIG
            whole += 1
        checkpoint.remove(tmp_path, checkpoint.names(tmp_path) - {"job-1"})
        assert [path.name for path in tmp_path.iterdir()] == ["job-1"]
    record_property("observed", f"checkpoint: {kills} kills, {whole} whole, the others absent")
    assert kills > 0
    assert checkpoint.load(tmp_path, "job-1")["weights"].sum() == BIG
