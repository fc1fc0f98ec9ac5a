"""The embedded Valkey is started again when it dies, and when its owner ends."""

import os
import signal
import time
from pathlib import Path

import pytest
import redis
from valkeys import embedded_valkey

from tempo_storage.valkey.embedded import keep_running
from tempo_storage.valkey.streams import redis_client

pytestmark = pytest.mark.service

START_SECONDS = 30.0


def process_id(url: str) -> int:
    """Return the pid of the Valkey at a URL; wait for one if none answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        client = redis_client(url)
        try:
            return int(client.info("server")["process_id"])
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "nobody started Valkey again"
            time.sleep(0.1)
        finally:
            client.close()


def test_a_killed_valkey_is_started_again(tmp_path: Path) -> None:
    url = keep_running(tmp_path)
    first = process_id(url)
    os.kill(first, signal.SIGKILL)
    assert process_id(url) != first


def test_a_process_that_joined_a_valkey_starts_it_again_when_the_owner_ends(
    tmp_path: Path,
) -> None:
    with embedded_valkey(tmp_path) as owner:
        assert owner.process is not None
        url = keep_running(tmp_path)
        assert process_id(url) == owner.process.pid
    assert process_id(url) > 0
