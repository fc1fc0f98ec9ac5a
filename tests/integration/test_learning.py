"""The closed loop on real parts: vLLM, Valkey, the RQ worker, the SDK and the openai client."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from small import finished, labeled_row
from sqlalchemy import delete
from traffic import eventually

from tempo_client import Tempo
from tempo_client.types import Job
from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.ledger.leases import TRAINER
from tempo_storage.ledger.models import Iteration, Question

pytestmark = [pytest.mark.service, pytest.mark.vllm]

SPLIT = countdown.split(7, labeled=120, unlabeled=12, unseen=0)
JOB_SECONDS = 180.0
StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def tempo(server: Any) -> Iterator[Tempo]:
    with Tempo(base_url=server.base_url, api_key=server.admin_key) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def labeled(server: Any) -> None:
    """Upload the labeled set once, and let the base serve."""
    with Tempo(base_url=server.base_url, api_key=server.admin_key) as tempo:
        tempo.files.create(labeled_row(p) for p in SPLIT.labeled)
    with server.sessions.begin() as s:
        sequence = ledger.versions.roll_back(s, to=0).sequence
    server.wait_for_sequence(sequence)


def ask(server: Any, **options: Any) -> None:
    for puzzle in SPLIT.unlabeled:
        server.client.chat.completions.create(
            model="tempo",
            messages=[{"role": "user", "content": puzzle.question}],
            max_tokens=16,
            **options,
        )


def positions(server: Any, job: Job) -> list[int]:
    with server.sessions() as s:
        return [row.position for row in ledger.jobs.iterations(s, job.id)]


def stored_questions(server: Any) -> int:
    with server.sessions() as s:
        return ledger.questions.count(s)[0]


def test_without_a_worker_requests_are_unaffected_and_the_status_says_so(
    server: Any, tempo: Tempo
) -> None:
    ask(server)
    assert tempo.status().worker.alive is False
    job = tempo.jobs.create("recalibrate", max_steps=1)
    time.sleep(1.0)
    assert tempo.jobs.retrieve(job.id).status == "queued"
    tempo.jobs.cancel(job.id)


def test_questions_without_labels_become_the_adapter_that_answers(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    with worker(TEMPO_LABELED_IN_POLICY="0"):
        eventually(lambda: server.stream.backlog() == 0)  # what others asked before
        before = stored_questions(server)
        ask(server, stream=False)
        eventually(lambda: stored_questions(server) == before + len(SPLIT.unlabeled))
        job = finished(tempo, tempo.jobs.create("round", max_steps=2))
    assert job.status == "succeeded", job.error
    assert job.result["decision"] == "promoted"
    assert (job.result["m_steps"], job.result["labeled_rows_in_policy"]) == (2, 0)
    assert job.result["gate"]["questions"] > 0
    name = job.fine_tuned_model
    assert name == tempo.status().serving_adapter == job.result["adapter"]
    answer = server.client.chat.completions.with_raw_response.create(
        model="tempo",
        messages=[{"role": "user", "content": SPLIT.unlabeled[0].question}],
        max_tokens=16,
        extra_headers={"X-Tempo-Opt-Out": "1"},
    )
    assert (answer.parse().model, answer.headers["x-tempo-adapter"]) == (name, name)
    # The rollouts of two iterations, a warm-up and a gate never became questions.
    assert stored_questions(server) == before + len(SPLIT.unlabeled)
    assert [e.type for e in tempo.jobs.events(job.id)][-2:] == ["gate.promoted", "job.succeeded"]


@pytest.mark.fault(
    1,
    "kill -9 of the worker in an M-step",
    promise="the next one goes on from the last committed step",
)
def test_a_worker_killed_in_an_m_step_is_followed_from_the_last_committed_step(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    job = tempo.jobs.create("round", max_steps=3)
    with worker(TEMPO_FAILPOINT="m_step:2") as process:
        assert process.wait(JOB_SECONDS) == -signal.SIGKILL
    committed = positions(server, job)
    assert committed[-1] == 1
    with server.sessions() as s:
        first = {row.position: row.number for row in ledger.jobs.iterations(s, job.id)}
    with worker():
        job = finished(tempo, job)
    assert job.status == "succeeded", job.error
    assert positions(server, job) == [*committed, 2, 3]
    assert job.result["labeled_rows_in_policy"] > 0  # by default
    with server.sessions() as s:
        rows = ledger.jobs.iterations(s, job.id)
        assert {row.position: row.number for row in rows if row.position in first} == first
        assert ledger.jobs.get(s, job.id).attempts == 1  # since the last committed step
        drawn = [tuple(row.question_ids) for row in rows if row.question_ids]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.fault(19, "SIGTERM", promise="what is under way ends within 30 s, exit 0")
def test_a_worker_told_to_stop_commits_its_step_and_leaves_the_job_queued(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    job = tempo.jobs.create("round", max_steps=500)
    with worker() as process:
        eventually(lambda: positions(server, job)[-2:][-1:] > [0], seconds=JOB_SECONDS)
        process.terminate()
        assert process.wait(30) == 0
    with server.sessions() as s:
        row = ledger.jobs.get(s, job.id)
        assert (row.status, row.attempts) == ("queued", 0)
        lease = ledger.leases.get(s, TRAINER)
        assert lease is not None
        assert lease.expires_at < time.time()
    assert tempo.jobs.cancel(job.id).status == "cancelled"


def test_an_unfit_critic_is_refused_its_m_step_with_an_event(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    serving = tempo.status().serving_adapter
    with worker(TEMPO_FITNESS_AUROC="1"):
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
        refused = [e for e in tempo.jobs.events(job.id) if e.type == "m_step.refused"]
        assert len(refused) == 1
        assert "AUROC" in refused[0].message
        assert (job.status, job.result["m_steps"]) == ("succeeded", 0)
        assert job.result["decision"] == "unchanged"
        assert tempo.status().serving_adapter == serving
        # With nothing captured, no M-step starts and the job says what to do.
        with server.sessions.begin() as s:
            s.execute(delete(Question))
            iterations = s.query(Iteration).count()
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
        assert job.status == "failed"
        assert job.error is not None
        assert "no unlabeled question was captured" in job.error.message
        with server.sessions() as s:
            assert s.query(Iteration).count() == iterations
