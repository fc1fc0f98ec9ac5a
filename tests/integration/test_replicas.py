"""Two replicas of two API processes each: how soon all of them answer with what was promoted."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.adapters import version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service, pytest.mark.slow]

PROMOTIONS, API_PROCESSES = 50, 2
# Two engines on two cores: as few threads as there can be, and none waits for another's core.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.fixture(scope="module")
def replicas(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, serve: Any
) -> Iterator[list[Any]]:
    """Two servers with one data directory, one after the other: they migrate and bind alike."""
    data_dir = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        options = {"flags": ("--api-server-count", str(API_PROCESSES)), "env": ENVIRONMENT}
        yield [stack.enter_context(serve(tiny_base, data_dir, **options)) for _ in range(2)]


@pytest.fixture(scope="module")
def processes(replicas: list[Any]) -> int:
    """All API processes, once each of them has told the ledger what it serves."""
    seconds_until(
        lambda: len(behind(replicas[0], ledger.versions.BASE)) == 0 and known(replicas[0])
    )
    return known(replicas[0])


def known(server: Any) -> int:
    with server.sessions() as s:
        found = len(ledger.versions.processes(s))
    return found if found == 2 * API_PROCESSES else 0


def behind(server: Any, version: int) -> list[str]:
    with server.sessions() as s:
        return [p.id for p in ledger.versions.processes(s) if p.version != version]


def seconds_until(claim: Callable[[], Any], *, seconds: float = 30.0) -> float:
    """Return after how many seconds the claim came true."""
    began = time.monotonic()
    while not claim():
        assert time.monotonic() - began < seconds, "it never came true"
        time.sleep(0.01)
    return time.monotonic() - began


def answers(server: Any) -> str:
    raw = server.client.chat.completions.with_raw_response.create(
        model="tempo", messages=[{"role": "user", "content": "1"}], max_tokens=1
    )
    return str(raw.headers["x-tempo-adapter"])


def promote_a_new_one(server: Any, make: Callable[..., int], seed: int) -> tuple[int, float]:
    """Return a version, and the seconds from its promotion until every process answers with it."""
    version = make(server, seed=seed)
    with server.sessions.begin() as s:
        ledger.versions.promote(s, version)
    return version, seconds_until(lambda: not behind(server, version))


def test_every_process_of_every_replica_follows_each_promotion_within_two_seconds(
    replicas: list[Any], processes: int, make_version_of: Callable[..., int], record_property: Any
) -> None:
    assert processes == 2 * API_PROCESSES
    seconds = []
    for number in range(PROMOTIONS):
        version, taken = promote_a_new_one(replicas[0], make_version_of, number)
        seconds.append(taken)
        named = {answers(replica) for replica in replicas for _ in range(4)}
        assert named == {version_name(version)}
    p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    found = f"{PROMOTIONS} promotions, {processes} API processes of 2 replicas: converged in "
    found += f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {max(seconds):.2f} s"
    record_property("observed", found)
    print(found)
    assert p50 < 2.0


def test_a_rollback_reaches_every_process_within_two_seconds(
    replicas: list[Any], make_version_of: Callable[..., int]
) -> None:
    before, _ = promote_a_new_one(replicas[0], make_version_of, 101)
    promote_a_new_one(replicas[0], make_version_of, 102)
    with Tempo(base_url=replicas[1].base_url, api_key=replicas[1].admin_key) as tempo:
        began = time.monotonic()
        assert tempo.adapters.rollback().id == version_name(before)
    seconds_until(lambda: not behind(replicas[0], before))
    assert time.monotonic() - began < 2.0


@pytest.mark.fault(
    21,
    "SIGSTOP of a replica in a promotion",
    promise="it is named, and follows in 2 s on its return",
)
def test_a_stopped_replica_is_named_by_the_promotion_and_follows_on_its_return(
    replicas: list[Any], make_version_of: Callable[..., int]
) -> None:
    first, second = replicas
    version = make_version_of(first, seed=103)
    with stopped(second):
        with Tempo(base_url=first.base_url, api_key=first.admin_key) as tempo:
            shown = tempo.adapters.promote(version_name(version))
        late = set(shown.unacknowledged)
        assert len(late) == API_PROCESSES
        assert answers(first) == version_name(version)
    assert set(behind(first, version)) <= late
    assert seconds_until(lambda: not behind(first, version)) < 2.0
    assert answers(second) == version_name(version)


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    """Stop every process of a server until the block ends."""
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.suspend()
    yield
    for each in family:
        each.resume()
