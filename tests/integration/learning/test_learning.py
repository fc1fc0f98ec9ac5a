"""The closed loop on real parts: vLLM, Valkey, the RQ worker, the SDK and the openai client."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from injection import kill_at_checkpoint
from rounds import SPLIT, finished, positions, upload
from sqlalchemy import delete
from waiting import eventually

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.ledger.models import Iteration, Question

pytestmark = [pytest.mark.service, pytest.mark.vllm]

JOB_SECONDS = 180.0
StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture(scope="module", autouse=True)
def labeled(server: Any) -> None:
    """Upload the labeled set once, and let the base serve."""
    with server.admin() as tempo:
        upload(tempo, SPLIT.labeled)
    with server.sessions.begin() as s:
        sequence = ledger.versions.promote(s, 0).sequence
    server.wait_for_sequence(sequence)


def ask(server: Any) -> None:
    """Ask every question of the split."""
    for puzzle in SPLIT.unlabeled:
        server.client.chat.completions.create(
            model="tempo",
            messages=[{"role": "user", "content": puzzle.question}],
            max_tokens=16,
        )


def stored_questions(server: Any) -> int:
    with server.sessions() as s:
        return ledger.pool.count(s)[0]


def test_without_a_worker_requests_are_answered_and_the_status_says_that_none_runs(
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
        eventually(lambda: server.stream.backlog() == 0)  # questions of earlier tests
        before = stored_questions(server)
        ask(server)
        eventually(lambda: stored_questions(server) == before + len(SPLIT.unlabeled))
        job = finished(tempo, tempo.jobs.create("round", max_steps=2))
    assert job.status == "succeeded", job.error
    assert job.result["decision"] == "promoted"
    assert (job.result["m_steps"], job.result["labeled_rows_in_policy"]) == (2, 0)
    assert job.result["gate"]["questions"] >= 32
    name = job.fine_tuned_model
    assert name == tempo.status().serving_adapter == job.result["adapter"]
    answer = server.client.chat.completions.with_raw_response.create(
        model="tempo",
        messages=[{"role": "user", "content": SPLIT.unlabeled[0].question}],
        max_tokens=16,
        extra_headers={"X-Tempo-Opt-Out": "1"},
    )
    assert (answer.parse().model, answer.headers["x-tempo-adapter"]) == (name, name)
    # The rollouts of two iterations, of a warm-up and of a gate were not captured.
    assert stored_questions(server) == before + len(SPLIT.unlabeled)
    assert [e.type for e in tempo.jobs.events(job.id)][-2:] == ["gate.promoted", "job.succeeded"]


@pytest.mark.fault(
    1,
    "kill -9 of the worker in an M-step",
    promise="the next worker goes on from the last committed step",
)
def test_after_a_worker_is_killed_in_an_m_step_the_next_goes_on_from_the_last_committed_step(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    job = tempo.jobs.create("round", max_steps=3)
    with worker(**kill_at_checkpoint(job.id, 2)) as process:
        assert process.wait(JOB_SECONDS) == -signal.SIGKILL
    committed = positions(server, job.id)
    assert committed[-1] == 1
    with server.sessions() as s:
        first = {row.position: row.number for row in ledger.jobs.iterations(s, job.id)}
    with worker():
        job = finished(tempo, job)
    assert job.status == "succeeded", job.error
    assert positions(server, job.id) == [*committed, 2, 3]
    assert job.result["labeled_rows_in_policy"] > 0  # the default
    with server.sessions() as s:
        rows = ledger.jobs.iterations(s, job.id)
        assert {row.position: row.number for row in rows if row.position in first} == first
        assert ledger.jobs.get(s, job.id).attempts == 1  # since the last committed step
        batches = [tuple(row.question_ids) for row in rows if row.question_ids]
    assert len(set(batches)) == len(batches)


@pytest.mark.fault(19, "SIGTERM", promise="work under way ends within 30 s, with exit code 0")
def test_a_worker_commits_its_step_after_sigterm_and_leaves_the_job_queued(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    job = tempo.jobs.create("round", max_steps=500)
    with worker() as process:
        eventually(lambda: positions(server, job.id)[-1:] > [0], seconds=JOB_SECONDS)
        process.terminate()
        assert process.wait(30) == 0
    with server.sessions() as s:
        row = ledger.jobs.get(s, job.id)
        assert (row.status, row.attempts) == ("queued", 0)
        assert ledger.leases.current(s) is None
    assert tempo.jobs.cancel(job.id).status == "cancelled"


def test_a_warm_up_that_sigterm_stops_keeps_its_e_steps_and_its_progress_has_numbers(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    job = tempo.jobs.create("recalibrate", max_steps=30)
    waiting = tempo.jobs.create("round", max_steps=1)
    with worker() as process:
        eventually(lambda: tempo.jobs.retrieve(job.id).progress.get("iteration", 0) > 1, seconds=60)
        progress = tempo.jobs.retrieve(job.id).progress
        waits = tempo.jobs.retrieve(waiting.id).progress["waits_for"]
        process.terminate()
        assert process.wait(30) == 0
    assert (progress["phase"], progress["of"], progress["total"]) == ("e_step", 30, 128)
    assert waits == f"{job.id} (recalibrate) runs"
    tempo.jobs.cancel(waiting.id)
    [part] = positions(server, job.id)
    assert -30 < part < 0
    with worker():
        job = finished(tempo, job)
    assert (job.status, job.result["e_steps"]) == ("succeeded", 30)
    assert positions(server, job.id) == [part, 0]


def test_a_critic_that_tells_no_responses_apart_gets_no_m_step_and_an_event_says_why(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    ask(server)
    serving = tempo.status().serving_adapter
    with worker(TEMPO_MINIMUM_ADVANTAGE_STD="2"):
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
        refused = [e for e in tempo.jobs.events(job.id) if e.type == "m_step.refused"]
        assert len(refused) == 1
        assert refused[0].message.startswith("critic flat: advantages deviate by 0.")
        assert (job.status, job.result["m_steps"]) == ("succeeded", 0)
        assert job.result["decision"] == "unchanged"
        assert tempo.status().serving_adapter == serving


def test_a_round_without_a_captured_question_makes_no_step_and_names_the_remedy(
    server: Any, tempo: Tempo, worker: StartWorker
) -> None:
    with worker():
        eventually(lambda: server.stream.backlog() == 0)
        with server.sessions.begin() as s:
            s.execute(delete(Question))
            iterations = s.query(Iteration).count()
        job = finished(tempo, tempo.jobs.create("round", max_steps=1))
        assert (job.status, job.result["decision"]) == ("succeeded", "unchanged")
        summary = "nothing changed: no unlabeled question was captured; send questions"
        assert job.result["summary"].startswith(summary)
        with server.sessions() as s:
            assert s.query(Iteration).count() == iterations
