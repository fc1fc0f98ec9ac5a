"""Fifty kill -9 of the worker change nothing of what it learns: the same steps, the same files."""

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
from small import expire_lease, labeled_row, wait_for_a_step, wait_for_the_end
from traffic import ask, eventually

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

KILLS, ITERATIONS = 50, 100
SPLIT = countdown.split(13, labeled=120, unlabeled=24, unseen=0)
START_SECONDS = 10.0  # in which a worker imports torch and loads the model
NOT_COMPARED = ("seconds", "time/")


@pytest.fixture(scope="module")
def questions(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any) -> Path:
    """A data directory with a labeled set and captured questions, and nothing learned yet."""
    data_dir = tmp_path_factory.mktemp("questions") / "data"
    data_dir.mkdir()
    with serve(tiny_base, data_dir) as server, connected(server) as tempo:
        tempo.files.create(map(labeled_row, SPLIT.labeled))
        for puzzle in SPLIT.unlabeled:
            ask(server, puzzle.question)
        eventually(lambda: server.stream.backlog() == len(SPLIT.unlabeled))
        with server.worker():
            eventually(lambda: tempo.status().questions.distinct == len(SPLIT.unlabeled))
    return data_dir


def connected(server: Any) -> Tempo:
    return Tempo(base_url=server.base_url, api_key=server.admin_key)


@contextmanager
def copy_of(questions: Path, model: Path, serve: Any, recorded: Path) -> Iterator[Any]:
    """Serve from a copy of the directory; its workers record and replay their rollouts."""
    data_dir = recorded.parent / f"{recorded.name}-{time.monotonic_ns()}"
    shutil.copytree(questions, data_dir, ignore=shutil.ignore_patterns("*.sock"))
    with serve(model, data_dir, worker_env={"TEMPO_ROLLOUTS_DIR": str(recorded)}) as server:
        yield server


def unkilled(server: Any) -> tuple[str, float]:
    """Return the job of a round that nobody disturbs, and its seconds for one iteration."""
    with connected(server) as tempo, server.worker():
        job = tempo.jobs.create("round", max_steps=ITERATIONS)
        eventually(lambda: tempo.jobs.retrieve(job.id).status == "running")
        began = time.monotonic()
        wait_for_the_end(server, job.id)
        return job.id, (time.monotonic() - began) / ITERATIONS


def killed(server: Any, iteration_seconds: float) -> tuple[str, int]:
    """Return the job of a round whose workers were killed, and how many were."""
    chance, kills = random.Random(5), 0
    with connected(server) as tempo:
        job = tempo.jobs.create("round", max_steps=ITERATIONS)
        while kills < KILLS and not tempo.jobs.retrieve(job.id).is_finished:
            with server.worker() as process:
                if kills % 2:  # or three in a row commit nothing, and the job is given up
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


def digest(server: Any, job_id: str) -> tuple[str, list[Any]]:
    """Return what a round came to, as text and as one hash."""
    with server.sessions() as s:
        job, rows = ledger.jobs.get(s, job_id), ledger.jobs.iterations(s, job_id)
        assert job.status == "succeeded", job.error
        told = [[row.position, row.question_ids, figures(row.metrics)] for row in rows]
        version = ledger.versions.adapter_of_job(s, job_id)
        assert version is not None
        # The gate's answers are not replayed, so what it decided is not compared.
        told.append([version.sha256, job.result["gate"]["questions"]])
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(), told


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if not any(part in k for part in NOT_COMPARED)}


def test_fifty_kills_change_neither_a_step_nor_a_figure_nor_the_adapter(
    questions: Path, tiny_base: Path, serve: Any, tmp_path: Path, record_property: Any
) -> None:
    recorded = tmp_path / "rollouts"
    with copy_of(questions, tiny_base, serve, recorded) as server:
        first, seconds = unkilled(server)
        expected, all_of_it = digest(server, first)
    with copy_of(questions, tiny_base, serve, recorded) as server:
        second, kills = killed(server, seconds)
        found, all_found = digest(server, second)
    told = f"{kills} kills over {ITERATIONS} iterations: {found[:16]}, unkilled {expected[:16]}"
    record_property("observed", told)
    print(told)
    assert all_found == all_of_it
    assert found == expected
    assert kills == KILLS
