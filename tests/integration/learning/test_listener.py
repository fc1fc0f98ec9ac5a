"""The worker's end of the doorbell on a real Valkey: it takes rings, and refuses all the rest."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from forgeries import REFUSED, UNREAD, command
from valkeys import embedded_valkey

from tempo_storage.valkey.doorbell import MAX_RINGS, RINGS, Listener, Refused, ring
from tempo_storage.valkey.server import EmbeddedValkey
from tempo_storage.valkey.streams import redis_client

pytestmark = pytest.mark.service
MAX_GROWTH_BYTES = 100 << 20


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with embedded_valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def attacker(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis_client(valkey.url, timeout_seconds=20.0) as client:
        client.flushall()
        yield client


@pytest.fixture
def listener(valkey: EmbeddedValkey, attacker: redis.Redis) -> Iterator[Listener]:
    listener = Listener(redis_client(valkey.url, timeout_seconds=5.0))
    assert listener.wait(0.01) == Refused()  # from here on it hears commands
    yield listener
    listener.close()


def test_a_ring_ends_the_wait_and_leaves_nothing_behind(
    listener: Listener, attacker: redis.Redis
) -> None:
    assert ring(attacker, "ftjob-1")
    assert ring(attacker, "ftjob-2")
    assert listener.wait(60) == Refused()
    assert attacker.keys("rq:job:*") == []
    assert not attacker.exists(RINGS)


@pytest.mark.parametrize("name", REFUSED)
def test_a_forged_job_is_refused_and_runs_nothing(
    name: str, listener: Listener, attacker: redis.Redis, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    REFUSED[name](attacker, canary)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert listener.wait(5) == Refused(jobs=1)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth << 10 < MAX_GROWTH_BYTES
    assert not canary.exists()
    assert ring(attacker, "ftjob-1")
    assert listener.wait(60) == Refused()


@pytest.mark.parametrize("name", UNREAD)
def test_a_key_of_rq_s_worker_is_not_read(
    name: str, listener: Listener, attacker: redis.Redis, tmp_path: Path
) -> None:
    UNREAD[name](attacker, tmp_path / "canary")
    assert ring(attacker, "ftjob-1")
    assert listener.wait(60) == Refused()


@pytest.mark.parametrize("name", ["shutdown", "kill-horse", "stop-job", "stop-execution", "{"])
def test_commands_to_workers_are_counted_and_not_obeyed(
    name: str, listener: Listener, attacker: redis.Redis
) -> None:
    for _ in range(6):
        command(attacker, name)
    assert ring(attacker, "ftjob-1")
    assert listener.wait(60) == Refused(commands=6)


def test_a_flood_is_dropped_unread_and_counted(listener: Listener, attacker: redis.Redis) -> None:
    attacker.rpush(RINGS, *(f"forged-{n}" for n in range(100_000)))
    ring(attacker, "ftjob-1")
    assert listener.wait(60) == Refused(jobs=100_001)
    assert MAX_RINGS < 100
    assert not attacker.exists(RINGS)


def test_it_listens_again_after_valkey_was_restarted(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as valkey:
        listener = Listener(redis_client(valkey.url, timeout_seconds=5.0))
        listener.wait(0.01)
        assert valkey.process is not None
        valkey.process.kill()
        valkey.process.wait(10)
        with pytest.raises(redis.RedisError):
            listener.wait(0.01)
        assert valkey.restart_if_dead()
        for _ in range(2):  # the first notices the lost connection, the second makes a new one
            listener.wait(0.01)
        with redis_client(valkey.url) as client:
            command(client, "shutdown")
            ring(client, "ftjob-1")
        assert listener.wait(60) == Refused(commands=1)
        listener.close()
