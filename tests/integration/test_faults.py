"""The fault table's rows about the server: what its users feel, and what is kept of them."""

import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from traffic import arrived, ask, eventually, missing, users

from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.valkey.streams import TIMEOUT_SECONDS

pytestmark = [pytest.mark.vllm, pytest.mark.service]

REQUESTS, USERS = 20, 4
STALL_SECONDS = 0.105  # what a request may wait for Valkey, or for the ledger, once


@pytest.fixture(autouse=True)
def as_it_was(server: Any) -> Iterator[None]:
    """Begin and end with the base, an empty stream and a Valkey that runs."""
    server.serve_base()
    arrived(server)
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


def asked(server: Any, name: str) -> list[float]:
    return [ask(server, f"{name} {number}") for number in range(REQUESTS)]


def told(before: list[float], during: list[float]) -> str:
    p50 = [statistics.median(seconds) * 1000 for seconds in (before, during)]
    return f"p50 {p50[0]:.0f} → {p50[1]:.0f} ms, longest {max(during) * 1000:.0f} ms, no error"


@pytest.mark.fault(
    6, "Valkey takes connections and answers nothing", promise="no 5xx, no request waits for it"
)
def test_users_do_not_feel_a_valkey_that_is_a_black_hole(
    server: Any, record_property: Callable[[str, object], None]
) -> None:
    before = asked(server, "bright")
    assert missing(server, {f"bright {n}" for n in range(REQUESTS)}) == set()
    with silent(server.valkey):
        during = asked(server, "dark")
        assert server.http.get("/tempo/healthz").status_code == 200
    began = time.monotonic()
    lost = missing(server, {f"dark {n}" for n in range(REQUESTS)})
    drained = time.monotonic() - began
    figures = told(before, during)
    record_property("observed", f"{figures}; {len(lost)} lost, all here {drained:.1f} s after")
    assert lost == set()
    assert statistics.median(during) < statistics.median(before) + STALL_SECONDS / 2
    assert max(during) < TIMEOUT_SECONDS


@pytest.mark.fault(
    11, "the ledger is locked", promise="inference and reads go on; writes wait 5 s, then 503"
)
def test_users_do_not_feel_a_ledger_that_is_locked_and_its_writers_are_told_to_wait(
    server: Any, make_version: Callable[..., int], record_property: Callable[[str, object], None]
) -> None:
    version = make_version(seed=61)
    server.promote(version)
    keyed = {"Authorization": f"Bearer {server.admin_key}"}
    before = asked(server, "free")
    with locked(server):
        began = time.monotonic()
        read = server.http.get("/tempo/v1/status", headers=keyed)
        read_after = time.monotonic() - began
        refused = server.http.post("/tempo/v1/training/pause", headers=keyed)
        waited = time.monotonic() - began
        during = asked(server, "locked")
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
    record_property("observed", f"{told(before, during)}; read at once, 503 after {waited:.1f} s")


@pytest.mark.fault(
    11, "the ledger is locked", promise="inference and reads go on; writes wait 5 s, then 503"
)
def test_a_write_outlasts_a_short_lock(server: Any) -> None:
    keyed = {"Authorization": f"Bearer {server.admin_key}"}
    with locked(server):
        done = []
        writer = threading.Thread(
            target=lambda: done.append(
                server.http.post("/tempo/v1/training/resume", headers=keyed).status_code
            )
        )
        writer.start()
        time.sleep(2.0)
        assert done == []
    writer.join(10)
    assert done == [200]


KILLED_WHEN: dict[str, Callable[[Any, str, list[Any]], Any]] = {
    "promoted": lambda server, name, asking: True,
    "loaded": lambda server, name, asking: f"{name} is loaded" in server.log,
    "answering": lambda server, name, asking: any(name in user.adapters for user in asking),
}


@pytest.mark.slow
@pytest.mark.fault(
    3, "kill -9 of the server in a swap", promise="the old or the new one answers; pointer kept"
)
@pytest.mark.fault(
    4, "kill -9 of the server under load", promise="each 2xx is in stream, spool or SQL"
)
@pytest.mark.parametrize("when", KILLED_WHEN)
def test_a_server_killed_in_a_swap_under_load_comes_back_with_what_was_promoted_and_all_questions(
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
    began = time.monotonic()
    server.restart()
    assert first_answer(server) == version_name(new)
    back = time.monotonic() - began
    lost = missing(server, accepted)
    record_property(
        "observed", f"when {when}: {len(lost)} of {len(accepted)} lost, back after {back:.0f} s"
    )
    assert lost == set()


def first_answer(server: Any) -> str:
    raw = server.client.chat.completions.with_raw_response.create(
        model="tempo", messages=[{"role": "user", "content": "1"}], max_tokens=1
    )
    return str(raw.headers["x-tempo-adapter"])
