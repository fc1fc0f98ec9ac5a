"""What is kept of a request, and what is not."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_server.capture import question
from tempo_server.capture.capture import Capture
from tempo_server.capture.spool import Counters, Spool
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.ledger.sessions import open_database
from tempo_storage.questions import content_hash

QUESTION = [{"role": "user", "content": "use 3 10 15 make 45 ?"}]


def capture(tmp_path: Path, **settings: Any) -> tuple[Capture, Counters]:
    counters = Counters()
    chosen = ServerSettings(data_dir=tmp_path, **settings)
    spool = Spool(tmp_path, counters, limit_bytes=1 << 20)
    return Capture(chosen, spool, counters), counters


def keep(it: Capture, asked: Any, *, headers: dict[str, str] | None = None) -> None:
    chosen = headers or {}
    it.keep(asked, question.chat, headers=chosen, version=7, opted_out=False)


def request(**fields: Any) -> Any:
    return SimpleNamespace(**({"messages": QUESTION} | fields))


def kept(tmp_path: Path) -> list[dict[str, Any]]:
    files = tmp_path.glob("*.active")
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def test_a_question_is_kept_with_what_asking_it_again_needs(tmp_path: Path) -> None:
    it, _ = capture(tmp_path)
    keep(
        it,
        request(temperature=0.5, chat_template_kwargs={"x": 1}, reasoning_effort="low"),
        headers={"authorization": "Bearer user"},
    )
    (record,) = kept(tmp_path)
    assert record["messages"] == QUESTION
    assert record["adapter_version"] == 7
    assert record["sampling"] == {"temperature": 0.5}
    assert record["chat_template_kwargs"] == {
        "x": 1,
        "reasoning_effort": "low",
        "enable_thinking": True,
    }
    assert record["id"].startswith("q_")
    assert len(record["tenant"]) == 16
    assert "user" not in record["tenant"]


def test_text_parts_are_joined_as_vllm_joins_them(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    it, _ = capture(tmp_path)
    keep(it, request(messages=[{"role": "user", "content": parts}]))
    assert kept(tmp_path)[0]["messages"] == [{"role": "user", "content": "a\nb"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [*QUESTION, {"role": "assistant", "content": "ok"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "tool", "content": "3"}, *QUESTION]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, *QUESTION]},
        {"messages": [{"role": "user", "content": "x" * 40_000}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": []},
        {"tools": [{}]},
        {"chat_template": "{{ 1 }}"},
        {"messages": [{"role": "assistant", "content": "", "reasoning": "hm"}, *QUESTION]},
    ],
)
def test_what_is_not_plain_text_is_skipped_and_counted(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    it, counters = capture(tmp_path)
    keep(it, request(**fields))
    assert kept(tmp_path) == []
    assert counters == Counters(skipped=1)


def test_capture_off_touches_nothing(tmp_path: Path) -> None:
    it, counters = capture(tmp_path, capture="off")
    keep(it, request())
    assert kept(tmp_path) == []
    assert counters == Counters()


def test_capture_hash_keeps_no_text(tmp_path: Path) -> None:
    it, _ = capture(tmp_path, capture="hash")
    keep(it, request(temperature=0.5), headers={"authorization": "Bearer user"})
    (record,) = kept(tmp_path)
    assert record["content_hash"] == content_hash(QUESTION)
    assert "45" not in json.dumps(record["messages"])
    assert (record["messages"], record["sampling"], record["tenant"]) == ([], {}, "")


def test_questions_of_which_only_the_hash_is_kept_are_counted_but_never_asked(
    tmp_path: Path,
) -> None:
    it, _ = capture(tmp_path, capture="hash")
    for _ in range(2):
        keep(it, request())
    sessions = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    with sessions.begin() as s:
        ledger.questions.add(s, kept(tmp_path))
        assert ledger.questions.count(s) == (2, 1)
        assert ledger.pool.distinct_hashes(s) == []


def test_a_failure_is_counted_and_never_shows_the_question(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    it, counters = capture(tmp_path)
    with caplog.at_level(logging.DEBUG):
        keep(it, request(chat_template_kwargs={"secret": object()}))
    assert counters == Counters(dropped=1)
    assert "45" not in caplog.text
    assert "secret" not in caplog.text
