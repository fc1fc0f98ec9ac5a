"""The spool: one write per question, nothing lost, nothing raised."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tempo_server.capture import spool as module
from tempo_server.capture.spool import Counters, Spool, drain
from tempo_storage.errors import StreamUnavailableError


class FakeStream:
    """Takes questions while it is up."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.is_up = True

    def append(self, questions: list[dict[str, Any]]) -> None:
        if not self.is_up:
            raise StreamUnavailableError("down; start it")
        self.taken += questions


def make(tmp_path: Path, *, limit_bytes: int = 1 << 20) -> tuple[Spool, Counters]:
    counters = Counters()
    return Spool(tmp_path, counters, limit_bytes=limit_bytes), counters


def send(spool: Spool, stream: FakeStream) -> None:
    spool.seal()
    asyncio.run(spool.send(stream))


def test_a_question_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    spool, counters = make(tmp_path)
    spool.append({"id": "a", "text": "é\n"})
    (active,) = tmp_path.glob("*.active")
    assert json.loads(active.read_bytes()) == {"id": "a", "text": "é\n"}
    assert (counters.captured, counters.spooled) == (1, 1)


def test_sent_questions_leave_the_disk(tmp_path: Path) -> None:
    spool, counters = make(tmp_path)
    stream = FakeStream()
    for i in range(600):
        spool.append({"id": i})
    send(spool, stream)
    assert [q["id"] for q in stream.taken] == list(range(600))
    assert list(tmp_path.glob("*-*.[aj]*")) == []
    assert (counters.captured, counters.spooled, counters.dropped) == (600, 0, 0)


def test_files_that_another_process_adopts_meanwhile_are_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone.lock"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [gone] if "lock" in pattern else [])
    spool, counters = make(tmp_path)  # it was listed, and is not there any more
    spool.append({"id": "a"})
    assert counters.captured == 1


def test_questions_wait_while_the_stream_is_down(tmp_path: Path) -> None:
    spool, counters = make(tmp_path)
    stream = FakeStream()
    stream.is_up = False
    for i in range(3):
        spool.append({"id": i})
        with pytest.raises(StreamUnavailableError):
            send(spool, stream)
    assert counters.spooled == 3
    stream.is_up = True
    send(spool, stream)
    assert [q["id"] for q in stream.taken] == [0, 1, 2]


def test_a_full_spool_drops_and_counts(tmp_path: Path) -> None:
    spool, counters = make(tmp_path, limit_bytes=30)
    stream = FakeStream()
    spool.append({"id": "first"})
    spool.append({"id": "second, which is too long"})
    assert (counters.captured, counters.dropped) == (1, 1)
    send(spool, stream)
    spool.append({"id": "third"})  # what was sent makes room
    assert (counters.captured, counters.dropped) == (2, 1)


def test_a_spool_that_cannot_be_written_drops_and_counts(tmp_path: Path) -> None:
    spool, counters = make(tmp_path / "spool")
    for file in (tmp_path / "spool").iterdir():
        file.unlink()
    (tmp_path / "spool").rmdir()
    spool.append({"id": "a"})
    assert (counters.captured, counters.dropped) == (0, 1)


def test_files_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tempo_server.capture.spool import *;"
        "s = Spool(Path(sys.argv[1]), Counters(), limit_bytes=9999);"
        "s.append({'id': 'sealed'}); s.seal(); s.append({'id': 'active'}); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=30)
    spool, counters = make(tmp_path)
    assert counters.spooled == 2
    stream = FakeStream()
    send(spool, stream)
    assert sorted(q["id"] for q in stream.taken) == ["active", "sealed"]
    assert len(list(tmp_path.glob("*.lock"))) == 1


def test_files_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    first, _ = make(tmp_path)
    first.append({"id": "a"})
    _, counters = make(tmp_path)
    assert counters.spooled == 0
    assert len(list(tmp_path.glob("*.active"))) == 1


def test_a_half_written_line_is_counted_and_the_rest_is_sent(tmp_path: Path) -> None:
    spool, counters = make(tmp_path)
    spool.append({"id": "a"})
    (active,) = tmp_path.glob("*.active")
    with active.open("ab") as file:
        file.write(b'{"id": "b\n')
    stream = FakeStream()
    send(spool, stream)
    assert [q["id"] for q in stream.taken] == ["a"]
    assert counters.dropped == 1


def test_a_file_that_was_cleared_away_does_not_block_the_others(tmp_path: Path) -> None:
    spool, _ = make(tmp_path)
    stream = FakeStream()
    for name in ("cleared", "sent"):
        spool.append({"id": name})
        spool.seal()
    min(tmp_path.glob("*.jsonl")).unlink()
    send(spool, stream)
    assert stream.taken == [{"id": "sent"}]


def test_draining_goes_on_after_the_stream_was_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)
    spool, _ = make(tmp_path)
    stream = FakeStream()
    stream.is_up = False
    spool.append({"id": "a"})

    async def run() -> None:
        task = asyncio.create_task(drain(spool, stream))
        await asyncio.sleep(0.05)
        stream.is_up = True
        while not stream.taken:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert stream.taken == [{"id": "a"}]


def test_questions_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    spool, _ = make(tmp_path)
    spool.append({"id": "a"})
    (active,) = tmp_path.glob("*.active")
    assert os.stat(active).st_mode & 0o077 == 0
