"""The worker's end of the doorbell on a real Valkey: it takes rings, and refuses all the rest."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


KINDS = {
    "pickles": ("a pickle", "a packed pickle", "a pickled result"),
    "functions to import": ("os.system", "a method of an object"),
    "callbacks": ("a success callback", "a failure callback", "a stopped callback"),
    "webhooks": ("a webhook",),
    "bombs that inflate to a gigabyte": ("a bomb", "a small bomb"),
    "jobs to repeat": ("a repetition", "a retry"),
}
OTHERS = "meta, arguments, types or data of other kinds"


def forged(name: str) -> Any:
    """Return the name of a forgery with its row in the table of attacks."""
    kind = next((kind for kind, names in KINDS.items() if name in names), OTHERS)
    promise = "refused and counted; nothing runs, nothing is inflated; a ring is taken"
    return pytest.param(
        name, marks=pytest.mark.attack("Valkey", f"forged jobs of RQ: {kind}", promise=promise)
    )


@pytest.mark.parametrize("name", [*map(forged, REFUSED)])
def test_a_forged_job_is_refused_and_runs_nothing(
    name: str,
    listener: Listener,
    attacker: redis.Redis,
    tmp_path: Path,
    seen: Callable[[object], None],
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
    seen(f"{name}: 1 refused, {growth >> 10} MiB more memory, no file of the attacker")


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.attack(
    "Valkey",
    "keys of RQ's own worker: suspended, workers, started and scheduled jobs",
    promise="they are not read; a ring is taken",
)
def test_a_key_of_rq_s_worker_is_not_read(
    name: str,
    listener: Listener,
    attacker: redis.Redis,
    tmp_path: Path,
    seen: Callable[[object], None],
) -> None:
    UNREAD[name](attacker, tmp_path / "canary")
    assert ring(attacker, "ftjob-1")
    refused = listener.wait(60)
    assert refused == Refused()
    seen(f"{name}: {refused.jobs} refused, the ring taken")


@pytest.mark.parametrize("name", ["shutdown", "kill-horse", "stop-job", "stop-execution", "{"])
@pytest.mark.attack(
    "Valkey",
    "RQ's remote commands shutdown, kill-horse, stop-job, stop-execution, six times each",
    promise="counted and not obeyed; a ring is taken",
)
def test_commands_to_workers_are_counted_and_not_obeyed(
    name: str, listener: Listener, attacker: redis.Redis, seen: Callable[[object], None]
) -> None:
    for _ in range(6):
        command(attacker, name)
    assert ring(attacker, "ftjob-1")
    refused = listener.wait(60)
    assert refused == Refused(commands=6)
    seen(f"{name}: {refused.commands} counted, the ring taken")


@pytest.mark.attack(
    "Valkey",
    "100,000 forged rings at once",
    promise="dropped unread and counted",
)
def test_a_flood_is_dropped_unread_and_counted(
    listener: Listener, attacker: redis.Redis, seen: Callable[[object], None]
) -> None:
    attacker.rpush(RINGS, *(f"forged-{n}" for n in range(100_000)))
    ring(attacker, "ftjob-1")
    refused = listener.wait(60)
    assert refused == Refused(jobs=100_001)
    assert MAX_RINGS < 100
    assert not attacker.exists(RINGS)
    seen(f"{refused.jobs} counted, {attacker.exists(RINGS)} left")


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
