"""Faults that would spoil a shared server: wrong labels, and a full disk."""

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rounds import finished, labeled_row, num_committed
from traffic import ask, missing, take_questions
from waiting import eventually

from tempo_client import BadRequestError, Tempo
from tempo_lab.tasks import countdown
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

SIZE = "64m"
SPLIT = countdown.split(29, labeled=240, unlabeled=12, unseen=0)
MORE = sorted(set(countdown.puzzles()[::60]) - set(SPLIT.labeled), key=lambda p: p.question)
REQUESTS = 12
# Critic and gate are the product's own; other tests of the loop let anything pass.
STRICT = {"INJECT_ANY_CRITIC": "", "INJECT_ANY_CANDIDATE": "", "TEMPO_WARM_UP_STEPS": "4"}
Observe = Callable[[str, object], None]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a file system of its own, if this process may mount one."""
    path = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield path
    if mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def server(tiny_base: Path, small_disk: Path, serve: Any) -> Iterator[Any]:
    """A server on the small disk, in place of the session's."""
    with serve(tiny_base, small_disk) as running:
        yield running


@pytest.fixture(autouse=True)
def _asked(server: Any) -> None:
    """Capture the unlabeled questions."""
    for puzzle in SPLIT.unlabeled:
        ask(server, puzzle.question)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """Leave no byte free on the file system of a directory."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def shuffled() -> list[dict[str, object]]:
    """Return labeled rows, each with the answer of another question."""
    targets = [str(puzzle.target) for puzzle in SPLIT.labeled]
    random.Random(3).shuffle(targets)
    return [
        labeled_row(puzzle) | {"answer": target}
        for puzzle, target in zip(SPLIT.labeled, targets, strict=True)
    ]


def files(server: Any) -> list[Any]:
    with server.sessions() as s:
        return list(ledger.labeled.files(s))


def post_more_rows(server: Any) -> Any:
    """Upload further labeled questions and return the server's reply."""
    rows = "\n".join(json.dumps(labeled_row(puzzle)) for puzzle in MORE)
    keyed = {"Authorization": f"Bearer {server.admin_key}"}
    file = ("more.jsonl", rows.encode())
    return server.http.post("/tempo/v1/files", headers=keyed, files={"file": file})


def num_dropped(server: Any) -> int:
    with server.sessions() as s:
        return sum(process.counters["dropped"] for process in ledger.versions.processes(s))


@pytest.mark.fault(
    13,
    "an upload has garbage, or poisoned labels",
    promise="bad lines are named; wrong labels change nobody's answers",
)
def test_wrong_labels_change_nobody_s_answers_and_bad_lines_are_named(
    server: Any, tempo: Tempo, record_property: Observe
) -> None:
    with pytest.raises(BadRequestError, match="lines that cannot be used: 2"):
        tempo.files.create([*shuffled(), {"question": "?"}, {"answer": "1"}])
    assert files(server) == []
    tempo.files.create(shuffled())
    with server.worker(**STRICT):
        job = finished(tempo, tempo.jobs.create("round", max_steps=2))
    assert job.status == "succeeded", job.error
    refusals = [e.message for e in tempo.jobs.events(job.id) if e.type == "m_step.refused"]
    decision = job.result["decision"]
    record_property("observed", f"{decision}, {len(refusals)} of 2 M-steps refused: {refusals[:1]}")
    assert decision in ("unchanged", "rejected")
    assert tempo.status().serving_adapter == "tempo-v0"


@pytest.mark.fault(
    9, "the disk is full", promise="inference goes on; uploads answer 507; training resumes"
)
def test_on_a_full_disk_requests_are_answered_and_training_resumes_once_there_is_room(
    server: Any, tempo: Tempo, small_disk: Path, record_property: Observe
) -> None:
    if not small_disk.is_mount():
        pytest.skip("no tmpfs can be mounted here: this needs root")
    take_questions(server)
    if not files(server):
        tempo.files.create(shuffled())
    with server.worker():
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        job = tempo.jobs.create("round", max_steps=4)
        eventually(lambda: num_committed(server, job.id) > 1, seconds=120)
        with full(small_disk):
            for number in range(REQUESTS):
                ask(server, f"full {number}")
            refused = post_more_rows(server)
            time.sleep(8)
            ask(server, "still")
        job = finished(tempo, job)
        assert post_more_rows(server).status_code == 200
        next_job = finished(tempo, tempo.jobs.create("round", max_steps=1))
    ask(server, "room again")
    assert missing(server, {"room again"}) == set()
    record_property(
        "observed",
        f"{REQUESTS + 1} of {REQUESTS + 1} answered, upload {refused.status_code}, "
        f"{num_dropped(server)} questions dropped and counted; the round {job.status}"
        f"{f' ({job.error.message.splitlines()[-1]})' if job.error else ''}, the next one ran",
    )
    assert refused.status_code == 507, refused.text
    assert refused.json()["error"]["code"] == "insufficient_storage"
    assert next_job.status == "succeeded", next_job.error
