"""The drain: an entry that cannot be stored is set aside, and the others flow."""

import math
import time
from typing import Any

import pytest
from ledgers import sqlite_ledger
from sqlalchemy.exc import OperationalError

from tempo_storage import ledger
from tempo_storage.ledger.models import DeadLetter, Question
from tempo_trainer.worker import stream_reader
from tempo_trainer.worker.stream_reader import StreamReader


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def entry(number: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}"}]
    return {"id": f"q_{number}", "messages": messages, "captured_at": float(number)} | fields


class Stream:
    """A stream of fixed entries; the test sees which ones were acknowledged."""

    def __init__(self, *questions: dict[str, Any]) -> None:
        self.entries = [(str(number), question) for number, question in enumerate(questions)]
        self.acknowledged: list[str] = []

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        return self.entries

    def acknowledge(self, entry_ids: list[str]) -> None:
        self.acknowledged += entry_ids


BAD = [
    pytest.param({"id": "q_9"}, "KeyError", id="fields are missing"),
    pytest.param({}, "KeyError", id="another program's entry"),
    pytest.param(entry(9, messages=5), "TypeError", id="messages are no list"),
    pytest.param(entry(9, messages=[7]), "AttributeError", id="a message is no object"),
    pytest.param(entry(9, captured_at="soon"), "ValueError", id="a time is no number"),
    pytest.param(
        entry(9, chat_template_kwargs={"a": nested(2_000)}), "RecursionError", id="too deep"
    ),
    pytest.param(entry(9, id=["q"]), "TypeError", id="an id is a list"),
    pytest.param(entry(9, id="q" * 9_000), "ValueError", id="an id is too long for an index"),
    pytest.param(entry(9, tenant=["t"]), "TypeError", id="a tenant is a list"),
    pytest.param(entry(9, captured_at=math.nan), "ValueError", id="a time is NaN"),
    pytest.param(entry(9, captured_at=math.inf), "ValueError", id="a time is infinite"),
    pytest.param(entry(9, captured_at=10**400), "OverflowError", id="a time is enormous"),
    pytest.param(entry(9, chat_template_kwargs=[1]), "TypeError", id="arguments are a list"),
    pytest.param(
        entry(9, messages=[{"role": "user", "content": [{"type": "image"}]}]),
        "KeyError",
        id="a part has no text",
    ),
    pytest.param(
        entry(9, messages=[], content_hash={"a": 1}), "TypeError", id="a hash is an object"
    ),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_an_entry_that_cannot_be_stored_is_set_aside_and_the_others_flow(
    tmp_path: Any, bad: dict[str, Any], reason: str
) -> None:
    with sqlite_ledger(tmp_path) as sessions:
        stream: Any = Stream(entry(1), bad, entry(2))
        reader = StreamReader(stream, sessions, keep=100)
        assert reader.step() == 0.0
        assert stream.acknowledged == ["0", "1", "2"]
        with sessions() as s:
            assert ledger.pool.count(s)[0] == 2
            assert ledger.dead_letters.count(s) == 1
            assert s.get(DeadLetter, "1").reason == reason
            event = ledger.events.last_error(s)
            assert event.type == "questions.dead_letter"
            assert "question" not in event.message.replace("a captured question", "")


def test_an_entry_is_tried_three_times(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def add(s: Any, questions: list[dict[str, Any]], **_: Any) -> None:
        tries.append(len(questions))
        if any(question["id"] == "q_1" for question in questions):
            raise ValueError

    monkeypatch.setattr(stream_reader.ledger.pool, "add", add)
    with sqlite_ledger(tmp_path) as sessions:
        stream: Any = Stream(entry(1), entry(2))
        StreamReader(stream, sessions, keep=100).move_batch()
    assert tries == [2, 1, 1, 1, 1]  # the batch, three times the first entry, the second one


def refuse(s: Any, *_: Any, **options: Any) -> None:
    raise OperationalError("insert", {}, Exception("refused"))


def test_an_error_of_the_database_about_one_entry_sets_that_entry_aside(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(s: Any, questions: list[dict[str, Any]], **_: Any) -> None:
        if any(question["id"] == "q_1" for question in questions):
            refuse(s)

    monkeypatch.setattr(stream_reader.ledger.pool, "add", add)
    with sqlite_ledger(tmp_path) as sessions:
        stream: Any = Stream(entry(1), entry(2))
        assert StreamReader(stream, sessions, keep=100).step() == 0.0
        assert stream.acknowledged == ["0", "1"]
        with sessions() as s:
            assert ledger.dead_letters.count(s) == 1


def test_while_the_database_is_away_the_entries_wait(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_reader.ledger.pool, "add", refuse)
    monkeypatch.setattr(stream_reader.ledger.training, "lock", refuse)
    with sqlite_ledger(tmp_path) as sessions:
        stream: Any = Stream(entry(1))
        reader = StreamReader(stream, sessions, keep=100)
        assert reader.step() == stream_reader.OUTAGE_SECONDS
        assert stream.acknowledged == []
        with sessions() as s:
            assert ledger.dead_letters.count(s) == 0


def test_a_time_in_the_future_counts_as_now(tmp_path: Any) -> None:
    with sqlite_ledger(tmp_path) as sessions:
        stream: Any = Stream(entry(1, captured_at=1e18))
        StreamReader(stream, sessions, keep=100).step()
        with sessions() as s:
            assert s.get_one(Question, "q_1").captured_at <= time.time()


def test_a_flood_of_entries_that_cannot_be_stored_makes_one_event_a_minute(tmp_path: Any) -> None:
    stream: Any = Stream(*(entry(n) | {"captured_at": "soon"} for n in range(20)))
    with sqlite_ledger(tmp_path) as sessions:
        reader = StreamReader(stream, sessions, keep=100)
        reader.step()
        with sessions.begin() as s:
            assert ledger.dead_letters.count(s) == 20
            (event,) = ledger.events.find(s)
            event.created_at -= ledger.dead_letters.EVENT_SECONDS
        reader.step()
        with sessions() as s:
            assert len(ledger.events.find(s)) == 2
