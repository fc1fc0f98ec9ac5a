"""Two replicas of two API processes each: the seconds until all answer with a promoted version."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from traffic import answering_version
from waiting import seconds_until

from tempo_storage import ledger
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

PROMOTIONS = 50
API_PROCESSES = 2
# Two engines share two cores: with one thread each, none waits for the other's core.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def replicas(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any
) -> Iterator[list[Any]]:
    """Two servers with one data directory, of which the second starts after the first."""
    data_dir = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        options = {"flags": ("--api-server-count", str(API_PROCESSES)), "env": ENVIRONMENT}
        yield [stack.enter_context(serve(tiny_base, data_dir, **options)) for _ in range(2)]


@pytest.fixture(scope="module")
def num_processes(replicas: list[Any]) -> int:
    """The number of API processes, once each of them has written into the ledger."""
    expected = 2 * API_PROCESSES
    seconds_until(
        lambda: (
            count_processes(replicas[0]) == expected
            and not behind(replicas[0], ledger.versions.BASE)
        )
    )
    return count_processes(replicas[0])


def count_processes(server: Any) -> int:
    with server.sessions() as s:
        return len(ledger.versions.processes(s))


def behind(server: Any, version: int) -> list[str]:
    """Return the API processes that do not answer with a version."""
    with server.sessions() as s:
        return [p.id for p in ledger.versions.processes(s) if p.version != version]


def promote_a_new_one(server: Any, make: Callable[..., int], seed: int) -> tuple[int, float]:
    """Return a version, and the seconds from its promotion until every process answers with it."""
    version = make(server, seed=seed)
    with server.sessions.begin() as s:
        ledger.versions.promote(s, version)
    return version, seconds_until(lambda: not behind(server, version))


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    """Stop every process of a server until the block ends."""
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.suspend()
    yield
    for member in family:
        member.resume()


def test_every_process_of_every_replica_follows_each_promotion_within_two_seconds(
    replicas: list[Any],
    num_processes: int,
    make_version_of: Callable[..., int],
    record_property: Any,
) -> None:
    assert num_processes == 2 * API_PROCESSES
    seconds = []
    for number in range(PROMOTIONS):
        version, taken = promote_a_new_one(replicas[0], make_version_of, number)
        seconds.append(taken)
        names = {answering_version(replica) for replica in replicas for _ in range(4)}
        assert names == {version_name(version)}
    p50 = statistics.median(seconds)
    p99 = statistics.quantiles(seconds, n=100)[98]
    observed = (
        f"{PROMOTIONS} promotions, {num_processes} API processes of 2 replicas: converged in "
        f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {max(seconds):.2f} s"
    )
    record_property("observed", observed)
    print(observed)
    assert p50 < 2.0


def test_a_rollback_reaches_every_process_within_two_seconds(
    replicas: list[Any], make_version_of: Callable[..., int]
) -> None:
    before, _ = promote_a_new_one(replicas[0], make_version_of, 101)
    promote_a_new_one(replicas[0], make_version_of, 102)
    with replicas[1].admin() as tempo:
        start = time.monotonic()
        assert tempo.adapters.rollback().id == version_name(before)
    seconds_until(lambda: not behind(replicas[0], before))
    assert time.monotonic() - start < 2.0


@pytest.mark.fault(
    21,
    "SIGSTOP of a replica in a promotion",
    promise="the replica is named; it follows within 2 s of its return",
)
def test_a_stopped_replica_is_named_by_the_promotion_and_follows_on_its_return(
    replicas: list[Any], make_version_of: Callable[..., int]
) -> None:
    first, second = replicas
    version = make_version_of(first, seed=103)
    with stopped(second):
        with first.admin() as tempo:
            adapter = tempo.adapters.promote(version_name(version))
        late = set(adapter.unacknowledged)
        assert len(late) == API_PROCESSES
        assert answering_version(first) == version_name(version)
    assert set(behind(first, version)) <= late
    assert seconds_until(lambda: not behind(first, version)) < 2.0
    assert answering_version(second) == version_name(version)
