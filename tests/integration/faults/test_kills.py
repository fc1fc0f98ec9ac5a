"""With the same rollouts, a round of fifty killed workers ends with the same steps and file."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from injection import record_rollouts
from rounds import expire_lease, upload, wait_for_a_step, wait_for_the_end
from traffic import ask
from waiting import eventually

from tempo_lab.tasks import countdown
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

KILLS = 50
ITERATIONS = 100
SPLIT = countdown.split(13, labeled=120, unlabeled=24, unseen=0)
START_SECONDS = 10.0  # in which a worker imports torch and loads the model
NOT_COMPARED = ("seconds", "time/")


@pytest.fixture(scope="module")
def questions(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Path:
    """A data directory with a labeled set and captured questions, before any round."""
    data_dir = tmp_path_factory.mktemp("questions") / "data"
    data_dir.mkdir()
    with serve(tiny_base, data_dir) as server, server.admin() as tempo:
        upload(tempo, SPLIT.labeled)
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        eventually(lambda: server.stream.backlog() == len(SPLIT.unlabeled))
        with server.worker():
            eventually(lambda: tempo.status().questions.distinct == len(SPLIT.unlabeled))
    return data_dir


@contextmanager
def copy_of(questions: Path, model: Path, serve: Any, recorded: Path) -> Iterator[Any]:
    """Serve from a copy of the directory; its workers record and replay their rollouts."""
    data_dir = recorded.parent / f"{recorded.name}-{time.monotonic_ns()}"
    shutil.copytree(questions, data_dir, ignore=shutil.ignore_patterns("*.sock"))
    with serve(model, data_dir, worker_env=record_rollouts(recorded)) as server:
        yield server


def run_undisturbed(server: Any) -> tuple[str, float]:
    """Return the job of a round without kills, and its seconds for one iteration."""
    with server.admin() as tempo, server.worker():
        job = tempo.jobs.create("round", max_steps=ITERATIONS)
        eventually(lambda: tempo.jobs.retrieve(job.id).status == "running")
        start = time.monotonic()
        wait_for_the_end(server, job.id)
        return job.id, (time.monotonic() - start) / ITERATIONS


def run_with_kills(server: Any, iteration_seconds: float) -> tuple[str, int]:
    """Return the job of a round whose workers were killed, and the number of kills."""
    chance = random.Random(5)
    kills = 0
    with server.admin() as tempo:
        job = tempo.jobs.create("round", max_steps=ITERATIONS)
        while kills < KILLS and not tempo.jobs.retrieve(job.id).is_finished:
            with server.worker() as process:
                if kills % 2:  # or three in a row commit nothing, and the job fails
                    wait_for_a_step(server, job.id)
                    time.sleep(chance.uniform(0, iteration_seconds))
                else:
                    time.sleep(chance.uniform(0, START_SECONDS))
                process.kill()
                process.wait()
            kills += 1
            expire_lease(server)
        with server.worker():
            wait_for_the_end(server, job.id)
    return job.id, kills


def outcome(server: Any, job_id: str) -> list[Any]:
    """Return a round's steps, figures and file hash."""
    with server.sessions() as s:
        job = ledger.jobs.get(s, job_id)
        assert job.status == "succeeded", job.error
        rows = ledger.jobs.iterations(s, job_id)
        steps = [[row.position, row.question_ids, figures(row.metrics)] for row in rows]
        version = ledger.versions.adapter_of_job(s, job_id)
        assert version is not None
        # The gate's responses are not replayed, so its decision is not compared.
        return [*steps, [version.sha256, job.result["gate"]["questions"]]]


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if not any(part in k for part in NOT_COMPARED)}


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def test_fifty_kills_change_neither_a_step_nor_a_figure_nor_the_adapter(
    questions: Path, tiny_base: Path, serve: Any, tmp_path: Path, record_property: Any
) -> None:
    recorded = tmp_path / "rollouts"
    with copy_of(questions, tiny_base, serve, recorded) as server:
        job_id, seconds = run_undisturbed(server)
        undisturbed = outcome(server, job_id)
    with copy_of(questions, tiny_base, serve, recorded) as server:
        job_id, kills = run_with_kills(server, seconds)
        killed = outcome(server, job_id)
    observed = (
        f"{kills} kills over {ITERATIONS} iterations: {digest(killed)[:16]}, "
        f"unkilled {digest(undisturbed)[:16]}"
    )
    record_property("observed", observed)
    print(observed)
    assert killed == undisturbed
    assert digest(killed) == digest(undisturbed)
    assert kills == KILLS
