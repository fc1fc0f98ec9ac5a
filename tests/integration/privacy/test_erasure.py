"""After an erasure, and after the retention, no file of a deployment holds a question's bytes.

The parts are real: capture, spool, Valkey with its append-only file, drain, SQLite, the admin API.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import send
from canaries import canary, files_with
from fastapi import FastAPI
from ledgers import opened, user
from sqlalchemy import update
from starlette.datastructures import Headers
from valkeys import embedded_valkey
from waiting import eventually

from tempo_server import keys
from tempo_server.admin import erasure as admin_erasure
from tempo_server.admin.router import router
from tempo_server.capture import erasure, question
from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Spool
from tempo_server.capture.tenants import Tenants, id_of
from tempo_server.context import Context
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.ledger.models import DeadLetter, ServerProcess
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import QuestionStream, redis_client
from tempo_trainer.worker.retention import Retention
from tempo_trainer.worker.stream_reader import StreamReader

pytestmark = pytest.mark.service

ANN, BOB = "Bearer ann", "Bearer bob"
KEEP = 20_000
DAY_SECONDS = 86_400.0


class Deployment:
    """One API process and one worker on a data directory; nothing runs by itself."""

    def __init__(self, root: Path, valkey: EmbeddedValkey, sessions: Any) -> None:
        self.root = root
        self.valkey = valkey
        self.sessions = sessions
        self.settings = ServerSettings(data_dir=root)
        self.stream = QuestionStream(redis_client(valkey.url, timeout_seconds=5.0))
        self.spool = Spool(root / "spool", limit_bytes=1 << 20)
        self.capture = Capture(self.settings, self.spool, Tenants(keys={"ann", "bob"}))
        self.reader = StreamReader(self.stream, sessions, keep=KEEP)
        store = AdapterStore(self.settings.adapters_dir)
        redis: Any = None
        context = Context(self.settings, sessions, store, self.stream, redis, "tiny", 16)
        keys.ensure_admin_key(context)
        self.context = context
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.state.tempo = context

    def ask(self, text: str, key: str = ANN, **fields: Any) -> None:
        """Let a user ask; the question is in the spool."""
        request = SimpleNamespace(messages=user(text), **fields)
        headers = Headers({"authorization": key})
        self.capture.keep(request, question.from_chat, headers=headers, is_opted_out=False)

    def send(self) -> None:
        """Move the spool to Valkey."""
        self.spool.seal()
        asyncio.run(self.spool.send(self.stream))

    def drain(self) -> None:
        """Move Valkey's stream to the ledger."""
        while self.reader.move_batch():
            pass

    def erase(self, key: str = ANN) -> dict[str, Any]:
        """Erase a tenant's questions by the admin API."""
        admin = self.settings.admin_key_path.read_text().strip()
        reply = send(
            self.app,
            "DELETE",
            "/tempo/v1/questions",
            params={"tenant": id_of(key)},
            headers={"Authorization": f"Bearer {admin}"},
        )
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body

    def holders(self, name: str) -> list[str]:
        """Return the files that hold a canary."""
        return files_with(canary(name), self.root)


@pytest.fixture
def deployment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Deployment]:
    caplog.set_level(logging.DEBUG)
    with (
        embedded_valkey(tmp_path / "data") as valkey,
        opened(ServerSettings(data_dir=tmp_path / "data").resolved_database_url) as sessions,
    ):
        yield Deployment(tmp_path / "data", valkey, sessions)
    assert "canary" not in caplog.text


def fill(deployment: Deployment) -> None:
    """Put a question of each user to each place on the way: ledger, dead letters, stream."""
    for key, name in ((ANN, "ann"), (BOB, "bob")):
        for number in range(40):
            deployment.ask(f"{canary(name)} stored {number}", key)
    deployment.send()
    deployment.drain()
    for key, name in ((ANN, "ann"), (BOB, "bob")):
        tenant = id_of(key)
        broken = {"id": f"q_{name}", "messages": [canary(name)], "tenant": tenant}
        deployment.stream.append([broken | {"captured_at": time.time()}])
    deployment.drain()
    for key, name in ((ANN, "ann"), (BOB, "bob")):
        deployment.ask(f"{canary(name)} streamed", key, chat_template_kwargs={"x": canary(name)})
    deployment.send()
    with deployment.sessions() as s:
        assert ledger.dead_letters.count(s) == 2


def test_after_an_erasure_no_file_holds_the_tenant_s_questions_and_the_others_stay(
    deployment: Deployment,
) -> None:
    fill(deployment)
    assert {"tempo.db-wal", "appendonlydir/appendonly.aof.1.incr.aof"} <= set(
        deployment.holders("ann")
    )
    answer = deployment.erase()
    assert (answer["erased"], answer["remains"]) == (41, [])  # 40 rows and a dead letter
    assert deployment.holders("ann") == []
    assert deployment.holders("bob") != []
    deployment.drain()
    with deployment.sessions() as s:
        assert ledger.pool.count(s) == (41, 41)
        assert ledger.dead_letters.count(s) == 1


def test_questions_that_an_older_release_deleted_leave_the_file_too(
    deployment: Deployment,
) -> None:
    deployment.ask(canary("ann"))
    deployment.send()
    deployment.drain()
    connection = deployment.sessions.kw["bind"].raw_connection()
    connection.cursor().execute("PRAGMA secure_delete=OFF")
    connection.cursor().execute("DELETE FROM questions")
    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert "tempo.db" in deployment.holders("ann")
    assert deployment.erase()["remains"] == []
    assert deployment.holders("ann") == []


def test_questions_that_wait_in_the_spool_while_valkey_is_away_are_erased_there(
    deployment: Deployment,
) -> None:
    deployment.ask(f"{canary('ann')} sealed")
    deployment.ask(f"{canary('bob')} sealed", BOB)
    deployment.spool.seal()
    deployment.ask(f"{canary('ann')} active")
    assert len(deployment.holders("ann")) == 2
    with deployment.sessions.begin() as s:  # the erasure that another API process took
        erased_at = ledger.erasures.record(s, id_of(ANN))
    asyncio.run(erasure.erase(deployment.spool, deployment.sessions))
    assert deployment.holders("ann") == []
    assert len(deployment.holders("bob")) == 1
    counters = deployment.spool.counters
    assert (counters.spooled, counters.erased_to) == (1, erased_at)
    deployment.send()
    deployment.drain()
    with deployment.sessions() as s:
        assert ledger.pool.count(s) == (1, 1)
    assert (counters.spooled, deployment.spool._bytes) == (0, 0)


def test_a_spool_that_a_dead_process_left_is_erased_before_it_is_sent(
    deployment: Deployment,
) -> None:
    deployment.ask(canary("ann"))
    deployment.spool.seal()
    deployment.erase()
    adopted = Spool(deployment.root / "spool", limit_bytes=1 << 20)
    path = deployment.spool._sealed.pop()
    adopted._add_sealed(path)  # its lock is ours, so that a real adoption would pass it over
    asyncio.run(erasure.erase(adopted, deployment.sessions))
    asyncio.run(adopted.send(deployment.stream))
    assert deployment.stream.backlog() == 0
    assert deployment.holders("ann") == []


def test_questions_that_arrive_while_the_stream_is_written_anew_are_not_lost(
    deployment: Deployment,
) -> None:
    own = QuestionStream(redis_client(deployment.valkey.url, timeout_seconds=5.0))

    def arrive() -> None:
        for number in range(300):
            own.append([{"id": f"q_{number}", "tenant": id_of(ANN if number % 3 else BOB)}])

    deleted = 0
    thread = threading.Thread(target=arrive)
    thread.start()
    while thread.is_alive():
        with contextlib.suppress(StreamUnavailableError):  # they arrive all the time
            deleted += deployment.stream.delete(lambda question: question["tenant"] == id_of(ANN))
        time.sleep(0.005)
    deleted += deployment.stream.delete(lambda question: question["tenant"] == id_of(ANN))
    entries = deployment.stream.read(1000)
    assert [q["id"] for _, q in entries] == [f"q_{number}" for number in range(0, 300, 3)]
    assert deleted == 200


def test_a_process_whose_spool_does_not_answer_is_named(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_erasure, "SPOOL_SECONDS", 0.2)
    with deployment.sessions.begin() as s:
        ledger.versions.acknowledge(s, "host-1", version=0, sequence=0, counters={"captured": 1})
    (remains,) = deployment.erase()["remains"]
    assert "the spool of host-1, which has not answered" in remains


@pytest.mark.parametrize("spooled", [0, 3])
def test_a_silent_process_is_named_if_it_left_questions(
    spooled: int, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_erasure, "SPOOL_SECONDS", 0.2)
    with deployment.sessions.begin() as s:
        counters = {"spooled": spooled}
        ledger.versions.acknowledge(s, "host-1", version=0, sequence=0, counters=counters)
        s.execute(update(ServerProcess).values(seen_at=time.time() - 600))
    assert ["host-1" in text for text in deployment.erase()["remains"]] == [True] * bool(spooled)


def test_without_valkey_the_ledger_is_erased_and_the_answer_says_what_remains(
    deployment: Deployment,
) -> None:
    fill(deployment)
    assert deployment.valkey.process is not None
    deployment.valkey.process.kill()
    deployment.valkey.process.wait(10)
    answer = deployment.erase()
    assert answer["erased"] == 41
    assert answer["remains"][0].startswith("Valkey's stream or its file")
    assert {name.split("/")[0] for name in deployment.holders("ann")} == {"appendonlydir"}
    assert deployment.valkey.restart_if_dead()
    assert deployment.erase()["remains"] == []
    assert deployment.holders("ann") == []


def test_a_reader_that_holds_the_log_is_waited_for_or_named(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempo_storage.ledger.scrub.CHECKPOINT_SECONDS", 0.2)
    fill(deployment)
    with deployment.sessions() as reader:
        ledger.pool.count(reader)
        (remains,) = deployment.erase()["remains"]
        assert "a reader holds the write-ahead log" in remains
    assert deployment.erase()["remains"] == []
    assert deployment.holders("ann") == []


# Retention ---------------------------------------------------------------------------------------


@pytest.mark.attack(
    "privacy",
    "questions older than the retention in spool, stream, AOF, SQL and dead letters",
    promise="no file has a byte of them",
)
def test_after_the_retention_no_file_holds_an_old_question_and_newer_ones_stay(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, seen: Callable[[object], None]
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 8 * DAY_SECONDS)
    fill(deployment)
    with deployment.sessions.begin() as s:
        s.execute(update(DeadLetter).values(created_at=time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    deployment.ask(canary("new"))
    deployment.send()
    retention = Retention(deployment.stream, deployment.sessions, days=7.0)
    assert retention.step() == pytest.approx(7 * DAY_SECONDS / 24)
    assert deployment.holders("ann") == deployment.holders("bob") == []
    deployment.drain()
    assert "tempo.db-wal" in deployment.holders("new")
    with deployment.sessions() as s:
        assert ledger.pool.count(s) == (1, 1)
        assert ledger.dead_letters.count(s) == 0
        event = ledger.events.find(s)[-1]
        assert (event.type, event.message) == (
            "questions.expired",
            "82 questions older than 7 days are deleted",
        )
        seen(f"{event.message}; the newer one is there")


def test_without_a_retention_nothing_is_deleted(deployment: Deployment) -> None:
    fill(deployment)
    before = deployment.holders("ann")
    assert Retention(deployment.stream, deployment.sessions, days=0).step() >= DAY_SECONDS
    assert deployment.holders("ann") == before


def test_a_spool_that_valkey_does_not_take_is_deleted_after_the_retention(
    deployment: Deployment,
) -> None:
    spool = Spool(deployment.root / "spool2", limit_bytes=1 << 20, keep_days=0.5 / DAY_SECONDS)
    spool.append({"id": "q", "text": canary("ann")})
    spool.seal()
    spool.expire()
    assert deployment.holders("ann") != []
    eventually(lambda: spool.expire() or not deployment.holders("ann"), seconds=10)
    assert (spool.counters.dropped, spool.counters.spooled, spool._bytes) == (1, 0, 0)


def test_while_valkey_is_away_the_retention_is_tried_again_within_the_hour(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    assert deployment.valkey.process is not None
    deployment.valkey.process.kill()
    deployment.valkey.process.wait(10)
    assert Retention(deployment.stream, deployment.sessions, days=30.0).step() == 3600.0
    assert "old questions are still there: Valkey does not answer" in caplog.text
