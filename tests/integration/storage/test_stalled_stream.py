"""A stream whose entries wait and do not move is noticed, on a real Valkey and a real ledger."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import captured, sqlite_ledger
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from valkeys import embedded_valkey
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.valkey import streams
from tempo_storage.valkey.streams import MAX_ENTRY_BYTES, MOVED, STREAM, QuestionStream
from tempo_trainer.worker.stall_watch import StallWatch
from tempo_trainer.worker.stream_reader import StreamReader

pytestmark = pytest.mark.service


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuestionStream]:
    monkeypatch.setattr(streams, "STALL_SECONDS", 1)
    with embedded_valkey(tmp_path / "valkey") as running:
        yield QuestionStream(streams.redis_client(running.url))


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    with sqlite_ledger(tmp_path) as made:
        yield made


def events(sessions: sessionmaker[Session]) -> list[str]:
    with sessions() as s:
        return [event.type for event in ledger.events.find(s)]


def test_an_event_says_when_the_stream_stalls_and_when_it_flows_again(
    stream: QuestionStream, sessions: sessionmaker[Session]
) -> None:
    reader = StreamReader(stream, sessions, keep=100)
    watch = StallWatch(stream, sessions)
    watch.step()
    assert events(sessions) == []
    stream.append([captured("q_1", "1 + 1")])
    eventually(stream.has_stalled, seconds=10)
    watch.step()
    watch.step()
    assert events(sessions) == ["questions.stalled"]
    reader.step()
    watch.step()
    assert events(sessions) == ["questions.stalled", "questions.flowing"]


@pytest.mark.attack(
    "learning",
    "a ledger that takes no question for a while",
    promise="nothing is set aside or lost; the stream is said to stall, then flows",
)
def test_a_ledger_that_takes_no_question_stalls_the_stream(
    stream: QuestionStream, sessions: sessionmaker[Session], seen: Callable[[object], None]
) -> None:
    reader = StreamReader(stream, sessions, keep=100)
    stream.append([captured("q_1", "1 + 1")])
    with sessions.begin() as s:
        s.execute(text("ALTER TABLE questions RENAME TO away"))
        s.execute(text("ALTER TABLE training RENAME TO away_too"))
    assert reader.step() > 0
    eventually(lambda: reader.step() > 0 and stream.has_stalled(), seconds=10)
    with sessions.begin() as s:
        s.execute(text("ALTER TABLE away RENAME TO questions"))
        s.execute(text("ALTER TABLE away_too RENAME TO training"))
    assert reader.step() == 0.0
    assert not stream.has_stalled()
    with sessions() as s:
        assert (ledger.pool.count(s), ledger.dead_letters.count(s)) == ((1, 1), 0)
        aside = ledger.dead_letters.count(s)
        seen(f"stalled, then {ledger.pool.count(s)[0]} question stored, {aside} set aside")


def test_a_stream_that_moves_has_not_stalled_however_old_its_entries_are(
    stream: QuestionStream, sessions: sessionmaker[Session]
) -> None:
    stream.append([captured(f"q_{n}", f"{n} + 1") for n in range(300)])
    eventually(stream.has_stalled, seconds=10)
    StreamReader(stream, sessions, keep=1000).step()
    assert stream.backlog() == 300 - 256
    assert not stream.has_stalled()  # a worker that catches up after an outage
    eventually(stream.has_stalled, seconds=10)


@pytest.mark.attack(
    "learning",
    "entries of 4 MiB, 5,000 digits and 100,000 nested lists at once",
    promise="set aside; the question behind them is stored",
)
def test_an_enormous_entry_is_set_aside_and_the_others_flow(
    stream: QuestionStream, sessions: sessionmaker[Session], seen: Callable[[object], None]
) -> None:
    stream._client.xadd(STREAM, {"question": b'{"id": "' + b"x" * MAX_ENTRY_BYTES + b'"}'})
    stream._client.xadd(STREAM, {"question": b'{"id": ' + b"9" * 5_000 + b"}"})
    stream._client.xadd(STREAM, {"question": b"[" * 100_000})
    stream.append([captured("q_1", "1 + 1")])
    StreamReader(stream, sessions, keep=100).step()
    assert stream.backlog() == 0
    with sessions() as s:
        assert (ledger.pool.count(s), ledger.dead_letters.count(s)) == ((1, 1), 3)
        seen(f"{ledger.dead_letters.count(s)} set aside, {ledger.pool.count(s)[0]} stored")
    assert stream._client.exists(MOVED)
