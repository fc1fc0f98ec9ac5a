"""The embedded Valkey and the question stream, on the real binary."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from processes import is_alive
from valkeys import embedded_valkey
from waiting import eventually

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import STREAM, QuestionStream, redis_client

pytestmark = pytest.mark.service


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with embedded_valkey(tmp_path / "with a space") as running:
        yield running


def test_questions_are_read_until_they_are_acknowledged(valkey: EmbeddedValkey) -> None:
    stream = QuestionStream(redis_client(valkey.url))
    stream.append([{"id": "a"}, {"id": "b"}])
    entries = stream.read()
    assert [q["id"] for _, q in entries] == ["a", "b"]
    assert stream.read() == entries  # as after a worker that died before its commit
    stream.acknowledge([i for i, _ in entries])
    assert stream.read() == []
    assert stream.backlog() == 0


@pytest.mark.fault(5, "kill -9 of Valkey", promise="no request fails; each question arrives later")
def test_acknowledged_questions_survive_kill_9(valkey: EmbeddedValkey) -> None:
    stream = QuestionStream(redis_client(valkey.url))
    stream.append([{"id": str(i)} for i in range(100)])
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGKILL)
    valkey.process.wait(10)
    with pytest.raises(StreamUnavailableError, match="is it running"):
        stream.append([{"id": "x"}])
    assert valkey.restart_if_dead()
    assert len(stream.read()) == 100


def test_an_entry_that_is_no_question_does_not_block_the_stream(valkey: EmbeddedValkey) -> None:
    client = redis_client(valkey.url)
    stream = QuestionStream(client)
    stream.append([{"id": "a"}])
    for fields in ({"other": "x"}, {"question": "{"}, {"question": "[]"}):
        client.xadd(STREAM, fields)
    assert [question for _, question in stream.read()] == [{"id": "a"}, {}, {}, {}]


def test_a_successor_waits_until_the_server_before_it_has_ended(valkey: EmbeddedValkey) -> None:
    assert valkey.process is not None
    assert valkey._lock is not None
    valkey._lock.close()  # as if its owner was killed while the server still writes
    with embedded_valkey(valkey.data_dir) as second:
        assert second.process is None
        valkey.process.terminate()
        valkey.process.wait(10)
        assert second.restart_if_dead()
        assert second.process is not None
        assert second.answers()


def test_a_stream_that_was_lost_is_created_again(valkey: EmbeddedValkey) -> None:
    client = redis_client(valkey.url)
    stream = QuestionStream(client)
    stream.append([{"id": "a"}])
    client.flushall()
    assert stream.read() == []
    stream.append([{"id": "b"}])
    assert len(stream.read()) == 1


def test_a_stream_that_another_program_overwrote_is_made_again(valkey: EmbeddedValkey) -> None:
    client = redis_client(valkey.url)
    stream = QuestionStream(client)
    client.set(STREAM, "x")
    with pytest.raises(StreamUnavailableError):
        stream.append([{"id": "a"}])
    with pytest.raises(StreamUnavailableError):
        stream.read()
    stream.append([{"id": "b"}])
    assert [question for _, question in stream.read()] == [{"id": "b"}]


def test_a_file_that_could_not_be_written_anew_once_is_written_when_it_can(
    valkey: EmbeddedValkey,
) -> None:
    client = redis_client(valkey.url, timeout_seconds=5.0)
    stream = QuestionStream(client)
    stream.append([{"id": "a"}])
    client.config_set("rdb-key-save-delay", 2_000_000)  # microseconds for each key
    client.bgrewriteaof()
    assert valkey.process is not None
    pid = valkey.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    eventually(lambda: client.info("persistence")["aof_last_bgrewrite_status"] == "err", seconds=10)
    client.config_set("rdb-key-save-delay", 0)
    stream.rewrite_log()
    assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"


def test_a_second_process_joins_the_running_server(valkey: EmbeddedValkey) -> None:
    with embedded_valkey(valkey.data_dir) as second:
        assert second.process is None
        QuestionStream(redis_client(second.url)).append([{"id": "a"}])
    assert QuestionStream(redis_client(valkey.url)).backlog() == 1


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tempo_storage.valkey.server import *;"
        "v = EmbeddedValkey(Path(sys.argv[1])); v.start(); print(v.process.pid, flush=True);"
        "time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    owner.kill()
    owner.wait(10)
    owner.stdout.close()
    eventually(lambda: not is_alive(server), seconds=10)


def test_nobody_but_the_user_who_started_it_can_enter(valkey: EmbeddedValkey) -> None:
    QuestionStream(redis_client(valkey.url)).append([{"id": "a"}])
    files = [*valkey.data_dir.rglob("*.aof"), valkey.socket]
    assert len(files) > 1
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []


@pytest.mark.attack(
    "Valkey",
    "a value of 17 MiB",
    promise="Valkey refuses it",
)
def test_a_huge_value_is_refused(valkey: EmbeddedValkey, seen: Callable[[object], None]) -> None:
    client = redis_client(valkey.url, timeout_seconds=20.0)
    with pytest.raises(redis.RedisError) as caught:
        client.set("x", b"0" * (17 << 20))
    assert client.set("x", b"0" * (15 << 20))
    client.close()
    seen(f"{type(caught.value).__name__}; 15 MiB are stored")


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
@pytest.mark.attack(
    "Valkey",
    "another user makes the directory of the socket first: open, a link, a file",
    promise="no process uses it",
)
def test_a_directory_that_others_prepared_for_the_socket_is_refused(
    kind: str, tmp_path: Path, seen: Callable[[object], None]
) -> None:
    data_dir = tmp_path / ("long" * 30)
    private = EmbeddedValkey(data_dir).socket.parent
    assert private.stat().st_mode & 0o777 == 0o700
    private.rmdir()
    try:
        if kind == "open to others":
            private.mkdir()
            private.chmod(0o755)  # whatever the umask is
        elif kind == "a link":
            private.symlink_to(tmp_path)
        else:
            private.touch()
        with pytest.raises(StreamUnavailableError, match="only this user can enter") as caught:
            EmbeddedValkey(data_dir)
    finally:
        private.rmdir() if kind == "open to others" else private.unlink()
    seen(f"{kind}: {type(caught.value).__name__}")
