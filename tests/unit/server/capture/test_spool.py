"""The spool writes each question at once, loses none, and raises nothing."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tempo_server.capture import spool as module
from tempo_server.capture.spool import Counters, Spool, send_for_ever
from tempo_storage.errors import StreamUnavailableError


class FakeStream:
    """Takes questions while it is up."""

    def __init__(self, *, is_up: bool = True) -> None:
        self.questions: list[dict[str, Any]] = []
        self.is_up = is_up

    def append(self, questions: list[dict[str, Any]]) -> None:
        if not self.is_up:
            raise StreamUnavailableError("down; start it")
        self.questions += questions

    def ids(self) -> list[Any]:
        return [question["id"] for question in self.questions]


def spool_in(directory: Path, *, limit_bytes: int = 1 << 20) -> tuple[Spool, Counters]:
    spool = Spool(directory, limit_bytes=limit_bytes)
    return spool, spool.counters


def send(spool: Spool, stream: FakeStream) -> None:
    spool.seal()
    asyncio.run(spool.send(stream))


def test_a_question_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path)
    spool.append({"id": "a", "text": "é\n"})
    (active,) = tmp_path.glob("*.active")
    assert json.loads(active.read_bytes()) == {"id": "a", "text": "é\n"}
    assert (counters.captured, counters.spooled) == (1, 1)


def test_sent_questions_leave_the_disk(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path)
    stream = FakeStream()
    for i in range(600):
        spool.append({"id": i})
    send(spool, stream)
    assert stream.ids() == list(range(600))
    assert list(tmp_path.glob("*-*.[aj]*")) == []
    assert (counters.captured, counters.spooled, counters.dropped) == (600, 0, 0)


def test_a_lock_that_another_process_has_just_removed_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone.lock"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [gone] if "lock" in pattern else [])
    spool, counters = spool_in(tmp_path)  # the directory listed the lock, but it is gone
    spool.append({"id": "a"})
    assert counters.captured == 1


def test_questions_wait_while_the_stream_is_down(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path)
    stream = FakeStream(is_up=False)
    for i in range(3):
        spool.append({"id": i})
        with pytest.raises(StreamUnavailableError):
            send(spool, stream)
    assert counters.spooled == 3
    stream.is_up = True
    send(spool, stream)
    assert stream.ids() == [0, 1, 2]


def test_a_full_spool_drops_questions_and_counts_them(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path, limit_bytes=30)
    stream = FakeStream()
    spool.append({"id": "first"})
    spool.append({"id": "second, which is too long"})
    assert (counters.captured, counters.dropped) == (1, 1)
    send(spool, stream)
    spool.append({"id": "third"})  # the sent file has made room
    assert (counters.captured, counters.dropped) == (2, 1)


def test_a_spool_that_cannot_be_written_drops_questions_and_counts_them(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path / "spool")
    for file in (tmp_path / "spool").iterdir():
        file.unlink()
    (tmp_path / "spool").rmdir()
    spool.append({"id": "a"})
    assert (counters.captured, counters.dropped) == (0, 1)


def test_the_files_of_a_killed_process_are_adopted(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tempo_server.capture.spool import *;"
        "s = Spool(Path(sys.argv[1]), limit_bytes=9999);"
        "s.append({'id': 'sealed'}); s.seal(); s.append({'id': 'active'}); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=30)
    spool, counters = spool_in(tmp_path)
    assert counters.spooled == 2
    stream = FakeStream()
    send(spool, stream)
    assert sorted(stream.ids()) == ["active", "sealed"]
    assert len(list(tmp_path.glob("*.lock"))) == 1


def test_the_files_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    first, _ = spool_in(tmp_path)
    first.append({"id": "a"})
    _, counters = spool_in(tmp_path)
    assert counters.spooled == 0
    assert len(list(tmp_path.glob("*.active"))) == 1


def test_a_half_written_line_is_counted_and_the_rest_is_sent(tmp_path: Path) -> None:
    spool, counters = spool_in(tmp_path)
    spool.append({"id": "a"})
    (active,) = tmp_path.glob("*.active")
    with active.open("ab") as file:
        file.write(b'{"id": "b\n')
    stream = FakeStream()
    send(spool, stream)
    assert stream.ids() == ["a"]
    assert counters.dropped == 1


def test_a_file_that_an_operator_deleted_does_not_block_the_others(tmp_path: Path) -> None:
    spool, _ = spool_in(tmp_path)
    stream = FakeStream()
    for name in ("deleted", "sent"):
        spool.append({"id": name})
        spool.seal()
    min(tmp_path.glob("*.jsonl")).unlink()
    send(spool, stream)
    assert stream.questions == [{"id": "sent"}]


def test_draining_goes_on_when_the_stream_is_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)
    spool, _ = spool_in(tmp_path)
    stream = FakeStream(is_up=False)
    spool.append({"id": "a"})

    async def run() -> None:
        task = asyncio.create_task(send_for_ever(spool, stream))
        await asyncio.sleep(0.05)
        stream.is_up = True
        while not stream.questions:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert stream.questions == [{"id": "a"}]


def test_questions_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    spool, _ = spool_in(tmp_path)
    spool.append({"id": "a"})
    (active,) = tmp_path.glob("*.active")
    assert os.stat(active).st_mode & 0o077 == 0
