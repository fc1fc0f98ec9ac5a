"""Jobs that start by themselves, and rollouts that give way to users, on real parts."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
from rounds import SPLIT, finished, upload
from sqlalchemy import delete
from waiting import eventually

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_storage.ledger.models import Question
from tempo_trainer.sampling.sampler import WAITING, Prompt, Sampler
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = [pytest.mark.service, pytest.mark.vllm]

PUZZLES = iter(sorted(set(countdown.puzzles()) - set(SPLIT.labeled), key=lambda p: p.question))
ROUND = {
    "TEMPO_ROUND_QUESTIONS": "8",
    "TEMPO_ITERATIONS_PER_ROUND": "1",
    "TEMPO_WARM_UP_STEPS": "1",
    "TEMPO_RECALIBRATE_AUROC": "0",
}
QUIET_SECONDS = 6.0  # the worker looks for due jobs every two seconds


@pytest.fixture
def _no_new_questions(server: Any, tempo: Tempo, worker: Any) -> None:
    """Upload the labeled set, and delete the questions of other tests."""
    upload(tempo, SPLIT.labeled)
    with worker():
        eventually(lambda: server.stream.backlog() == 0)
    with server.sessions.begin() as s:
        s.execute(delete(Question))


def ask(server: Any, questions: int) -> None:
    """Ask questions that nobody has asked before."""
    for _ in range(questions):
        server.client.chat.completions.create(
            model="tempo",
            messages=[{"role": "user", "content": next(PUZZLES).question}],
            max_tokens=4,
        )


def job_ids(tempo: Tempo) -> set[str]:
    return {job.id for job in tempo.jobs.list()}


@pytest.mark.usefixtures("_no_new_questions")
def test_a_round_starts_by_itself_when_enough_new_questions_have_arrived(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    before = job_ids(tempo)
    with worker(**ROUND):
        ask(server, 7)
        eventually(lambda: tempo.status().questions.distinct == 7)
        time.sleep(QUIET_SECONDS)
        assert job_ids(tempo) == before
        ask(server, 1)
        started = eventually(lambda: [j for j in tempo.jobs.list() if j.id not in before])
        job = finished(tempo, started[0])
        assert (job.mode, job.status, job.result["iterations"]) == ("round", "succeeded", 1)
        assert "8 new questions since the last round" in tempo.jobs.events(job.id)[0].message
        time.sleep(QUIET_SECONDS)
        assert job_ids(tempo) == before | {job.id}  # the round has used these questions


@pytest.mark.usefixtures("_no_new_questions")
def test_a_pause_holds_the_schedule_across_a_restart_of_the_worker(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    before = job_ids(tempo)
    tempo.training.pause(reason="maintenance")
    for questions in (8, 0):
        with worker(**ROUND):
            ask(server, questions)
            eventually(lambda: tempo.status().questions.distinct == 8)
            time.sleep(QUIET_SECONDS)
            assert job_ids(tempo) == before
    tempo.training.resume()
    with worker(**ROUND):
        started = eventually(lambda: [j for j in tempo.jobs.list() if j.id not in before])
        assert tempo.jobs.cancel(started[0].id).status == "cancelled"
        time.sleep(QUIET_SECONDS)
        assert len(tempo.jobs.list()) == len(before) + 1  # a cancelled round does not start again


# Rollouts give way -------------------------------------------------------------------------------


class TimedTransport(httpx.HTTPTransport):
    """Notes when each rollout request is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[float] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/completions":
            self.sent.append(time.monotonic())
        return super().handle_request(request)


@contextmanager
def sampling(sampler: Sampler) -> Iterator[None]:
    """Sample in a thread until the block ends."""
    done = threading.Event()

    def sample() -> None:
        prompts = [Prompt(str(i), (1, 2, 3)) for i in range(4)]
        while not done.is_set():
            sampler.sample(prompts, adapter="tempo-v0", n=1)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)


def test_rollouts_pause_within_a_second_while_users_queue(server: Any) -> None:
    settings = WorkerSettings(
        base_url=server.base_url,
        max_response_tokens=8,
        prompts_per_request=1,
        requests_in_flight=2,
    )
    before = TimedTransport()
    amid = TimedTransport()
    early, late = (
        Sampler(settings, key=server.admin_key, transport=transport) for transport in (before, amid)
    )
    body = {"model": "tempo-v0", "prompt": [1, 2, 3], "n": 64, "max_tokens": 100}
    users = [
        threading.Thread(
            target=server.http.post,
            args=("/v1/completions",),
            kwargs={"json": body | {"ignore_eos": True}, "timeout": 120},
        )
        for _ in range(8)
    ]
    queued: list[float] = []
    """When somebody looked and users queued, since the queue was last found empty."""

    def users_queue() -> bool:
        waiting = sum(map(float, WAITING.findall(server.http.get("/metrics").text)))
        if waiting > 2 * settings.requests_in_flight:  # more than the rollouts of both samplers
            queued.append(time.monotonic())
            return True
        return False

    def have_queued_for_a_second() -> bool:
        if not users_queue():
            queued.clear()  # the first users were served before the others came
        return bool(queued) and queued[-1] - queued[0] > 1.0

    with closing(early), closing(late), sampling(early):
        eventually(lambda: len(before.sent) > 4)
        for user in users:
            user.start()
        eventually(have_queued_for_a_second)
        with sampling(late):
            while users_queue():
                time.sleep(0.05)
            for user in users:
                user.join(120)
            done = time.monotonic()
            eventually(lambda: all(t.sent and t.sent[-1] > done for t in (before, amid)))
    assert queued[-1] - queued[0] > 2.0, "the users did not queue"
    assert [at for at in before.sent if queued[0] + 1.0 < at < queued[-1]] == []
    assert amid.sent[0] > queued[-1]
    assert late.take_held_back() > 1.0
