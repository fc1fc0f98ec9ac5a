"""Nothing acknowledged is lost: clients note every acknowledgement while the worker, Valkey and
vLLM are killed; afterwards the ledger must agree with the notes.
"""

import hashlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from adapters import WEIGHTS
from rounds import expire_lease, upload, wait_for_a_step, wait_for_the_end
from sqlalchemy import select
from traffic import text_of
from waiting import eventually

from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.ledger.models import Iteration, LabeledExample, Question

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

ROUNDS = 3
ITERATIONS = 4
USERS = 3
VLLM_KILLS = 2
SPLIT = countdown.split(19, labeled=160, unlabeled=24, unseen=0)


@dataclass
class History:
    """The acknowledgements that clients saw, in order."""

    questions: list[str] = field(default_factory=list)
    """Questions whose answer began."""
    answered_by: list[tuple[float, str]] = field(default_factory=list)
    """For each answer the unix time, and the adapter that gave it."""
    files: dict[str, int] = field(default_factory=dict)
    """Files whose upload was answered with 200, with the number of their lines."""
    pointers: list[tuple[int, str]] = field(default_factory=list)
    """For each acknowledged promotion or rollback the pointer's sequence, and the adapter."""
    faults: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def lived(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any
) -> Iterator[tuple[Any, History]]:
    """A deployment after rounds under kills, and its clients' history."""
    with serve(tiny_base, tmp_path_factory.mktemp("history")) as server:
        history = History()
        over = threading.Event()
        upload_labeled(server, history, SPLIT.labeled[:120])
        users = [
            threading.Thread(target=use, args=(server, history, number, over))
            for number in range(USERS)
        ]
        for user in users:
            user.start()
        try:
            run_rounds_under_kills(server, history)
        finally:
            over.set()
            for user in users:
                user.join(120)
        settle(server)
        yield server, history


def use(server: Any, history: History, number: int, over: threading.Event) -> None:
    """Ask until it is over; a request that fails was not acknowledged."""
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="-", max_retries=0, timeout=30)
    for asked in count():
        if over.is_set():
            return
        text = f"user {number} asks {asked}"
        with suppress(openai.OpenAIError, httpx.HTTPError):
            raw = client.chat.completions.with_raw_response.create(
                model="tempo", messages=[{"role": "user", "content": text}], max_tokens=4
            )
            history.questions.append(text)
            history.answered_by.append((time.time(), raw.headers["x-tempo-adapter"]))
        over.wait(0.2)


def upload_labeled(server: Any, history: History, puzzles: Any) -> None:
    with server.admin() as tempo:
        history.files[upload(tempo, puzzles)] = len(puzzles)


def run_rounds_under_kills(server: Any, history: History) -> None:
    chance = random.Random(23)
    for number in range(ROUNDS):
        with server.admin() as tempo:
            job = tempo.jobs.create("round", max_steps=ITERATIONS)
        for fault in (kill_worker, kill_valkey, kill_vllm if number < VLLM_KILLS else kill_worker):
            with next_worker(server) as process:
                wait_for_a_step(server, job.id)
                time.sleep(chance.uniform(0, 1.0))
                fault(server, process)
                history.faults[fault.__name__] += 1
        with next_worker(server):
            wait_for_the_end(server, job.id)
        operate(server, history, number)


@contextmanager
def next_worker(server: Any) -> Iterator[Any]:
    """Run a worker, which need not wait for the lease of the dead one before it."""
    expire_lease(server)
    with server.worker(TEMPO_SENTINEL_SECONDS="0") as process:
        yield process


def kill_worker(server: Any, process: Any) -> None:
    process.kill()
    process.wait()


def kill_valkey(server: Any, process: Any) -> None:
    server.valkey.process.send_signal(signal.SIGKILL)
    server.valkey.process.wait(10)
    time.sleep(1.0)  # in which users go on asking
    assert server.valkey.restart_if_dead()


def kill_vllm(server: Any, process: Any) -> None:
    server.stop(with_signal=signal.SIGKILL)
    server.start()


def operate(server: Any, history: History, number: int) -> None:
    """Promote, roll back and upload as an operator does, and note the acknowledgements."""
    with server.admin() as tempo:
        newest = version_name(newest_version(server))
        adapter = tempo.adapters.promote(newest, force=True, reason="a test")
        history.pointers.append((sequence(server), adapter.id))
        if number % 2:
            adapter = tempo.adapters.rollback(to="tempo-v0")
            history.pointers.append((sequence(server), adapter.id))
    upload_labeled(server, history, SPLIT.labeled[120 + 10 * number : 130 + 10 * number])


def settle(server: Any) -> None:
    """Let a worker store every question that waits in the stream or in the spool."""
    with next_worker(server):
        eventually(lambda: server.stream.backlog() == 0)
        spool = server.data_dir / "spool"
        eventually(lambda: not [p for p in spool.glob("*") if p.suffix in (".active", ".jsonl")])
        eventually(lambda: server.stream.backlog() == 0)


def newest_version(server: Any) -> int:
    with server.sessions() as s:
        return ledger.versions.next_version(s) - 1


def sequence(server: Any) -> int:
    with server.sessions() as s:
        return ledger.versions.serving(s).sequence


def test_every_question_whose_answer_began_is_in_the_ledger_once(lived: Any) -> None:
    server, history = lived
    assert history.faults == {"kill_worker": 4, "kill_valkey": 3, "kill_vllm": 2}
    with server.sessions() as s:
        rows = s.scalars(select(Question))
        stored = Counter(text_of({"messages": row.messages}) for row in rows)
    print(f"{len(history.questions)} questions were answered under {dict(history.faults)}")
    assert [text for text in history.questions if text not in stored] == []
    assert [text for text in history.questions if stored[text] > 1] == []


def test_every_file_whose_upload_was_acknowledged_is_in_the_ledger_with_all_its_lines(
    lived: Any,
) -> None:
    server, history = lived
    assert len(history.files) == 1 + ROUNDS
    with server.sessions() as s:
        stored = Counter(s.scalars(select(LabeledExample.file_id)))
    assert dict(stored) == history.files


def test_the_pointer_is_where_the_last_acknowledged_promotion_or_rollback_left_it(
    lived: Any,
) -> None:
    server, history = lived
    with server.sessions() as s:
        pointer = ledger.versions.serving(s)
    assert (pointer.sequence, version_name(pointer.version)) == history.pointers[-1]


def test_every_round_has_each_step_once_and_no_question_twice_in_a_step(lived: Any) -> None:
    server, _ = lived
    with server.sessions() as s:
        rounds = ledger.jobs.find(s, statuses=("succeeded",), modes=("round",))
        assert len(rounds) == ROUNDS
        rows = list(s.scalars(select(Iteration)))
    for job in rounds:
        steps = sorted(row.position for row in rows if row.job_id == job.id and row.position > 0)
        assert steps == list(range(1, ITERATIONS + 1))
    for row in rows:
        assert len(set(row.question_ids)) == len(row.question_ids)


def test_only_promoted_versions_have_answered_and_their_files_are_whole(lived: Any) -> None:
    server, history = lived
    with server.sessions() as s:
        events = [e for e in ledger.events.find(s, limit=10_000) if e.type == "adapter.promoted"]
        digests = {version_name(row.version): row.sha256 for row in ledger.versions.adapters(s)}
        files = {name: ledger.published.files(s, name) for name in digests}
    promoted = {version_name(event.data["version"]): event.created_at for event in events[::-1]}
    promoted["tempo-v0"] = 0.0
    for moment, name in history.answered_by:
        assert promoted[name] <= moment
    for name in {name for _, name in history.answered_by} - {"tempo-v0"}:
        server.store.verify(name, files[name], base=str(server.model), rank=16)
        weights = (server.store.path(name) / WEIGHTS).read_bytes()
        assert hashlib.sha256(weights).hexdigest() == digests[name]
