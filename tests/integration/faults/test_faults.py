"""Faults of the server and of its stores: users get answers, and no question is lost."""

import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from traffic import answering_version, ask, missing, take_questions, users
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.valkey.streams import TIMEOUT_SECONDS

pytestmark = [pytest.mark.vllm, pytest.mark.service]

REQUESTS = 20
USERS = 4
STALL_SECONDS = 0.105  # the longest wait of a request for Valkey, or for the ledger, once


@pytest.fixture(autouse=True)
def unhurt(server: Any) -> Iterator[None]:
    """Start and end with the base, an empty stream and a Valkey that runs."""
    server.serve_base()
    take_questions(server)
    yield
    server.valkey.restart_if_dead()
    eventually(server.valkey.answers)
    server.serve_base()


@contextmanager
def silent(valkey: Any) -> Iterator[None]:
    """Let Valkey take connections and answer nothing, as behind a black hole."""
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        valkey.process.send_signal(signal.SIGCONT)


@contextmanager
def locked(server: Any) -> Iterator[None]:
    """Hold the ledger's write lock."""
    connection = sqlite3.connect(server.data_dir / "tempo.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def request_seconds(server: Any, name: str) -> list[float]:
    return [ask(server, f"{name} {number}") for number in range(REQUESTS)]


def comparison(before: list[float], during: list[float]) -> str:
    p50 = [statistics.median(seconds) * 1000 for seconds in (before, during)]
    return f"p50 {p50[0]:.0f} → {p50[1]:.0f} ms, longest {max(during) * 1000:.0f} ms, no error"


@pytest.mark.fault(
    6, "Valkey takes connections and answers nothing", promise="no 5xx; no request waits for it"
)
def test_users_do_not_notice_a_valkey_that_answers_nothing(
    server: Any, record_property: Callable[[str, object], None]
) -> None:
    before = request_seconds(server, "bright")
    assert missing(server, {f"bright {n}" for n in range(REQUESTS)}) == set()
    with silent(server.valkey):
        during = request_seconds(server, "dark")
        assert server.http.get("/tempo/healthz").status_code == 200
    start = time.monotonic()
    lost = missing(server, {f"dark {n}" for n in range(REQUESTS)})
    drained = time.monotonic() - start
    figures = comparison(before, during)
    record_property("observed", f"{figures}; {len(lost)} lost, all here {drained:.1f} s after")
    assert lost == set()
    assert statistics.median(during) < statistics.median(before) + STALL_SECONDS / 2
    assert max(during) < TIMEOUT_SECONDS


@pytest.mark.fault(
    11,
    "the ledger is locked",
    promise="inference and reads go on; writes wait 5 s, then answer 503",
)
def test_users_do_not_notice_a_locked_ledger_and_writes_answer_503_after_five_seconds(
    server: Any, make_version: Callable[..., int], record_property: Callable[[str, object], None]
) -> None:
    version = make_version(seed=61)
    server.promote(version)
    keyed = {"Authorization": f"Bearer {server.admin_key}"}
    before = request_seconds(server, "free")
    with locked(server):
        start = time.monotonic()
        read = server.http.get("/tempo/v1/status", headers=keyed)
        read_after = time.monotonic() - start
        refused = server.http.post("/tempo/v1/training/pause", headers=keyed)
        waited = time.monotonic() - start
        during = request_seconds(server, "locked")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["error"]["code"] == "database_unavailable"
    assert 4 < waited < 10
    assert (read.status_code, read.json()["serving_adapter"]) == (200, version_name(version))
    assert read_after < 1
    assert statistics.median(during) < statistics.median(before) + STALL_SECONDS / 2
    assert missing(server, {f"locked {n}" for n in range(REQUESTS)}) == set()
    after = server.http.get("/tempo/v1/status", headers=keyed).json()
    assert after["serving_adapter"] == version_name(version)
    assert after["paused"] is False
    figures = comparison(before, during)
    record_property("observed", f"{figures}; read at once, 503 after {waited:.1f} s")


@pytest.mark.fault(
    11,
    "the ledger is locked",
    promise="inference and reads go on; writes wait 5 s, then answer 503",
)
def test_a_write_waits_for_a_short_lock_and_succeeds(server: Any) -> None:
    keyed = {"Authorization": f"Bearer {server.admin_key}"}
    with locked(server):
        codes = []
        writer = threading.Thread(
            target=lambda: codes.append(
                server.http.post("/tempo/v1/training/resume", headers=keyed).status_code
            )
        )
        writer.start()
        time.sleep(2.0)
        assert codes == []
    writer.join(10)
    assert codes == [200]


KILLED_WHEN: dict[str, Callable[[Any, str, list[Any]], Any]] = {
    "promoted": lambda server, name, asking: True,
    "loaded": lambda server, name, asking: f"{name} is loaded" in server.log,
    "answering": lambda server, name, asking: any(name in user.adapters for user in asking),
}


@pytest.mark.slow
@pytest.mark.fault(
    3,
    "kill -9 of the server in a swap",
    promise="the old or the new version answers; the pointer is kept",
)
@pytest.mark.fault(
    4,
    "kill -9 of the server under load",
    promise="each question with a 2xx answer is in stream, spool or SQL",
)
@pytest.mark.parametrize("when", KILLED_WHEN)
def test_a_server_killed_in_a_swap_under_load_returns_with_the_promoted_version_and_all_questions(
    server: Any,
    make_version: Callable[..., int],
    record_property: Callable[[str, object], None],
    when: str,
) -> None:
    old = make_version(seed=62, scale=1.0)
    server.promote(old)
    new = make_version(seed=63, scale=1.0)
    names = {version_name(old), version_name(new)}
    with users(server, USERS, name=when) as asking:
        eventually(lambda: all(len(user.accepted) > 2 for user in asking))
        with server.sessions.begin() as s:
            ledger.versions.promote(s, new)
        while not KILLED_WHEN[when](server, version_name(new), asking):
            time.sleep(0.001)
        server.stop(with_signal=signal.SIGKILL)
        for user in asking:
            user.join(60)
    assert {name for user in asking for name in user.adapters} <= names
    assert {code for user in asking for code in user.codes} == {200}
    accepted = {text for user in asking for text in user.accepted}
    start = time.monotonic()
    server.restart()
    assert answering_version(server) == version_name(new)
    seconds = time.monotonic() - start
    lost = missing(server, accepted)
    record_property(
        "observed", f"when {when}: {len(lost)} of {len(accepted)} lost, back after {seconds:.0f} s"
    )
    assert lost == set()
