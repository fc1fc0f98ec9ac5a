"""Capture keeps text that a user asked, counts everything else, and shows no question in a log."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledgers import user
from sqlalchemy.orm import Session, sessionmaker
from starlette.datastructures import Headers

from tempo_server.capture import question
from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Counters, Spool
from tempo_server.capture.tenants import Tenants
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.question_hash import content_hash, loose_hash

MESSAGES = user("use 3 10 15 make 45 ?")
SAMPLING: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k", "max_tokens"))


class Captured:
    """A capture with some settings, and the records in its spool."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.spool = Spool(root, limit_bytes=1 << 20)
        self.counters = self.spool.counters
        self.capture = Capture(
            ServerSettings(data_dir=root, **settings), self.spool, Tenants(keys={"user"})
        )

    def keep(self, *, headers: dict[str, str] | None = None, **fields: Any) -> None:
        """Capture a chat request with these fields."""
        request = SimpleNamespace(**({"messages": MESSAGES} | fields))
        self.capture.keep(
            request, question.from_chat, headers=Headers(headers or {}), is_opted_out=False
        )

    def records(self) -> list[dict[str, Any]]:
        files = self.root.glob("*.active")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_question_is_kept_with_its_arguments_and_the_hash_of_its_tenant(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    captured.keep(
        temperature=0.5,
        max_completion_tokens=64,
        n=4,
        seed=1,
        chat_template_kwargs={"x": 1},
        reasoning_effort="low",
        headers={"authorization": "Bearer user"},
    )
    (record,) = captured.records()
    assert record["messages"] == MESSAGES
    assert {name: record[name] for name in SAMPLING} == SAMPLING | {
        "temperature": 0.5,
        "max_tokens": 64,
    }
    assert record.keys().isdisjoint({"n", "seed", "sampling", "max_completion_tokens"})
    assert record["chat_template_kwargs"] == {
        "x": 1,
        "reasoning_effort": "low",
        "enable_thinking": True,
    }
    assert record["id"].startswith("q_")
    assert len(record["tenant"]) == 16
    assert "user" not in record["tenant"]


def test_text_parts_stay_apart_and_one_part_is_a_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    captured = Captured(tmp_path)
    captured.keep(messages=[{"role": "user", "content": parts}])
    captured.keep(messages=[{"role": "user", "content": parts[:1]}])
    messages = [record["messages"] for record in captured.records()]
    assert messages == [[{"role": "user", "content": parts}], user("a")]


def nested(depth: int) -> Any:
    """Return lists in one another."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [*MESSAGES, {"role": "assistant", "content": "ok"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "tool", "content": "3"}, *MESSAGES]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, *MESSAGES]},
        {"messages": user("x" * 40_000)},
        {"messages": user("\ud800")},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": []},
        {"tools": [{}]},
        {"chat_template": "{{ 1 }}"},
        {"messages": [{"role": "assistant", "content": "", "reasoning": "hm"}, *MESSAGES]},
        {"messages": [{"role": "user", "name": "Ann", "content": "2 + 2"}]},
        {"messages": user(" \n")},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 2}]},
        {"messages": [{"role": "user", "content": []}]},
        {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": {"x": nested(8)}},
        {"chat_template_kwargs": {"x": nested(600)}},
        {"chat_template_kwargs": {"x": nested(100_000)}},
        {"chat_template_kwargs": {"x": "y" * 4_096}},
        {"chat_template_kwargs": {"x": float("nan")}},
        {"chat_template_kwargs": {"x": "\ud800"}},
        {"chat_template_kwargs": {"\0": 1}},
        {"chat_template_kwargs": {"x": object()}},
        {"kv_transfer_params": {"remote": 1}},
    ],
)
def test_a_request_with_more_than_a_user_s_text_is_skipped_and_counted(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    captured = Captured(tmp_path)
    captured.keep(**fields)
    assert captured.records() == []
    assert captured.counters == Counters(skipped=1)


def test_capture_off_keeps_and_counts_nothing(tmp_path: Path) -> None:
    captured = Captured(tmp_path, capture="off")
    captured.keep()
    assert captured.records() == []
    assert captured.counters == Counters()


def test_capture_hash_keeps_no_text_and_no_tenant(tmp_path: Path) -> None:
    captured = Captured(tmp_path, capture="hash")
    captured.keep(temperature=0.5, headers={"authorization": "Bearer user"})
    (record,) = captured.records()
    assert record["content_hash"] == content_hash(MESSAGES)
    assert record["loose_hash"] == loose_hash(MESSAGES)
    assert "45" not in json.dumps(record["messages"])
    assert (record["messages"], record["chat_template_kwargs"], record["tenant"]) == ([], {}, "")
    assert record.keys().isdisjoint(SAMPLING)


def test_questions_without_text_are_counted_but_never_train(
    tmp_path: Path, sessions: sessionmaker[Session]
) -> None:
    captured = Captured(tmp_path, capture="hash")
    for _ in range(2):
        captured.keep()
    with sessions.begin() as s:
        ledger.pool.add(s, captured.records())
        assert ledger.pool.count(s) == (2, 1)
        assert ledger.pool.size(s) == 0
        assert ledger.pool.next_questions(s, 9) == []


def test_a_failure_is_counted_and_its_log_line_quotes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = Captured(tmp_path)

    def fail(spool: object, record: object) -> None:
        raise RuntimeError(str(record))

    monkeypatch.setattr("tempo_server.capture.spool.Spool.append", fail)
    with caplog.at_level(logging.DEBUG):
        captured.keep(chat_template_kwargs={"secret": 1})
    assert captured.counters == Counters(dropped=1)
    assert len(caplog.records) == 1
    assert "45" not in caplog.text
    assert "secret" not in caplog.text
