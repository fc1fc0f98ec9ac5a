"""Jobs that start by themselves, and rollouts that let users pass, on real parts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from small import finished, labeled_row
from sqlalchemy import delete
from traffic import eventually

from tempo_client import Tempo
from tempo_lab.tasks import countdown
from tempo_storage.ledger.models import Question
from tempo_trainer.sampling.sampler import WAITING, Prompt, Sampler
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = [pytest.mark.service, pytest.mark.vllm]

LABELED = countdown.split(7, labeled=120, unlabeled=12, unseen=0).labeled
PUZZLES = iter(sorted(set(countdown.puzzles()) - set(LABELED), key=lambda p: p.question))
ROUND = {
    "TEMPO_ROUND_QUESTIONS": "8",
    "TEMPO_ITERATIONS_PER_ROUND": "1",
    "TEMPO_WARM_UP_STEPS": "1",
    "TEMPO_RECALIBRATE_AUROC": "0",
}
QUIET_SECONDS = 6.0  # the worker looks every two


@pytest.fixture
def tempo(server: Any) -> Iterator[Tempo]:
    with Tempo(base_url=server.base_url, api_key=server.admin_key) as client:
        yield client


@pytest.fixture
def nothing_is_new(server: Any, tempo: Tempo, worker: Any) -> None:
    """Upload the labeled set, and forget what others asked."""
    tempo.files.create(labeled_row(p) for p in LABELED)
    with worker():
        eventually(lambda: server.stream.backlog() == 0)
    with server.sessions.begin() as s:
        s.execute(delete(Question))


def ask(server: Any, questions: int) -> None:
    """Ask questions that nobody has asked, and return when they are in the stream."""
    for _ in range(questions):
        server.client.chat.completions.create(
            model="tempo",
            messages=[{"role": "user", "content": next(PUZZLES).question}],
            max_tokens=4,
        )


@pytest.mark.usefixtures("nothing_is_new")
def test_a_round_starts_by_itself_when_enough_new_questions_have_arrived(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    known = {job.id for job in tempo.jobs.list()}
    with worker(**ROUND):
        ask(server, 7)
        eventually(lambda: tempo.status().questions.distinct == 7)
        time.sleep(QUIET_SECONDS)
        assert {job.id for job in tempo.jobs.list()} == known
        ask(server, 1)
        started = eventually(lambda: [j for j in tempo.jobs.list() if j.id not in known])
        job = finished(tempo, started[0])
        assert (job.mode, job.status, job.result["iterations"]) == ("round", "succeeded", 1)
        assert "8 new questions since the last round" in tempo.jobs.events(job.id)[0].message
        time.sleep(QUIET_SECONDS)
        assert {j.id for j in tempo.jobs.list()} == known | {job.id}  # they are used up


@pytest.mark.usefixtures("nothing_is_new")
def test_a_pause_holds_the_schedule_also_after_a_restart(
    server: Any, tempo: Tempo, worker: Any
) -> None:
    known = {job.id for job in tempo.jobs.list()}
    tempo.training.pause(reason="maintenance")
    for questions in (8, 0):
        with worker(**ROUND):
            ask(server, questions)
            eventually(lambda: tempo.status().questions.distinct == 8)
            time.sleep(QUIET_SECONDS)
            assert {job.id for job in tempo.jobs.list()} == known
    tempo.training.resume()
    with worker(**ROUND):
        started = eventually(lambda: [j for j in tempo.jobs.list() if j.id not in known])
        assert tempo.jobs.cancel(started[0].id).status == "cancelled"
        time.sleep(QUIET_SECONDS)
        assert len(tempo.jobs.list()) == len(known) + 1  # what was cancelled is not started again


class Watched(httpx.HTTPTransport):
    """Notes when a rollout request is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[float] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/completions":
            self.sent.append(time.monotonic())
        return super().handle_request(request)


@contextmanager
def sampling(sampler: Sampler) -> Iterator[None]:
    """Sample for as long as the block lasts."""
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
    before, amid = Watched(), Watched()
    early, late = (
        Sampler(settings, key=server.admin_key, transport=watched) for watched in (before, amid)
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

    def users_queue() -> bool:
        waiting = sum(map(float, WAITING.findall(server.http.get("/metrics").text)))
        if waiting > 2 * settings.requests_in_flight:  # more than the rollouts of both
            queued.append(time.monotonic())
        return bool(queued)

    with sampling(early):
        eventually(lambda: len(before.sent) > 4)
        for user in users:
            user.start()
        eventually(users_queue)
        with sampling(late):
            while any(user.is_alive() for user in users):
                users_queue()
                time.sleep(0.05)
            done = time.monotonic()
            eventually(lambda: all(w.sent and w.sent[-1] > done for w in (before, amid)))
    assert queued[-1] - queued[0] > 2.0, "the users did not queue"
    assert [at for at in before.sent if queued[0] + 1.0 < at < queued[-1]] == []
    assert amid.sent[0] > queued[-1]
    assert late.take_held_back() > 1.0
    early.close()
    late.close()
