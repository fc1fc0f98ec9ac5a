"""Bodies that are slow, huge, deep, packed or repeated cost others neither time nor memory."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import httpx
import pytest
from attackers import (
    JOBS,
    JSON,
    USERS_KEY,
    V1,
    HonestUser,
    chat,
    gzip_bomb,
    nested,
    resident_bytes,
    slowly,
)
from traffic import CHAT
from waiting import eventually

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

MEGABYTE = 1 << 20
MAX_GROWTH_BYTES = 150 * MEGABYTE
QUICKLY = 5.0
LINE = {"question": "How long?", "answer": "2", "verifier": "hanging"}


class Cost:
    """The seconds of a block, and by how much the server's process grew at most."""

    def __init__(self, server: Any) -> None:
        self._process_id = server.pid
        self._ended = threading.Event()
        self.seconds = 0.0
        self.growth_bytes = 0

    def __enter__(self) -> "Cost":
        self._before = resident_bytes(self._process_id)
        self._start = time.monotonic()
        self._watch = threading.Thread(target=self._sample)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
        self._ended.set()
        self._watch.join()

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.growth_bytes >> 20} MiB"

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            growth = resident_bytes(self._process_id) - self._before
            self.growth_bytes = max(self.growth_bytes, growth)


def post(url: str, headers: dict[str, str], body: Any) -> int | str:
    """Return the status of an answer, or "closed" if the server closed the connection."""
    try:
        return httpx.post(url, content=body, headers=headers, timeout=60).status_code
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return "closed"


@pytest.mark.attack(
    "time and memory",
    "300 MB to routes that need no key, or do not exist",
    promise="the body is not kept in memory",
)
@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/nothing", "/v1/models"])
def test_a_huge_body_to_a_route_that_takes_none_fills_no_memory(
    stack: Any, seen: Seen, path: str
) -> None:
    key = {"Authorization": f"Bearer {USERS_KEY}"} if path in ("/nothing", "/v1/models") else {}
    with Cost(stack) as cost:
        status = post(f"{stack.base_url}{path}", key, slowly(300 * MEGABYTE))
    seen(f"{path} {status} after {cost}")
    assert cost.growth_bytes < MAX_GROWTH_BYTES


@pytest.mark.attack(
    "time and memory",
    "300 MB to routes of vLLM that take a body, with the users' key",
    promise="413 or 400, before all of it is in memory",
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/v1/messages"])
def test_a_huge_body_to_a_route_of_vllm_is_refused(stack: Any, seen: Seen, path: str) -> None:
    headers = JSON | {"Authorization": f"Bearer {USERS_KEY}"}
    with Cost(stack) as cost:
        status = post(f"{stack.base_url}{path}", headers, slowly(300 * MEGABYTE))
    seen(f"{path} {status} after {cost}")
    assert status in (400, 413, "closed")
    assert cost.growth_bytes < MAX_GROWTH_BYTES


@pytest.mark.attack(
    "time and memory",
    "an upload of 300 MB, and one without a key",
    promise="413 after 33 MiB, 401 before the first byte",
)
@pytest.mark.parametrize(("key", "expected"), [("admin", 413), ("wrong", 401)])
def test_a_huge_upload_is_refused_while_it_comes(
    stack: Any, seen: Seen, key: str, expected: int
) -> None:
    secret = stack.admin_key if key == "admin" else "tk_wrong"
    headers = {"Authorization": f"Bearer {secret}"}
    headers["Content-Type"] = "multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = chain([part], slowly(300 * MEGABYTE))
    with Cost(stack) as cost:
        status = post(f"{stack.base_url}{V1}/files", headers, body)
    seen(f"{key} key: {status} after {cost}")
    assert status in (expected, "closed")
    assert cost.growth_bytes < MAX_GROWTH_BYTES


def repeated(name: str) -> bytes:
    """Return a chat in which a field stands 100,000 times."""
    pairs = f'"{name}": true, ' * 100_000
    return ("{" + pairs + json.dumps(chat("1"))[1:]).encode()


BODIES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "100,000 times `store` in a chat": ("user", CHAT, lambda: repeated("store")),
    "100,000 times `priority` in a chat": ("user", CHAT, lambda: repeated("priority")),
    "100,000 nested lists in a chat": ("user", CHAT, lambda: nested(100_000).encode()),
    "100,000 nested lists to /tokenize": ("user", "/tokenize", lambda: nested(100_000).encode()),
    "100,000 nested lists in a job": ("admin", JOBS, lambda: nested(100_000).encode()),
    "a million digits in a job": ("admin", JOBS, lambda: b'{"model": ' + b"9" * 1_000_000 + b"}"),
}


@pytest.mark.attack(
    "time and memory",
    "JSON that repeats a name, nests or counts without end",
    promise="answered within 5 s, no 5xx",
)
@pytest.mark.parametrize("name", BODIES)
def test_json_of_the_worst_kind_is_answered_at_once(stack: Any, seen: Seen, name: str) -> None:
    who, path, body = BODIES[name]
    secret = USERS_KEY if who == "user" else stack.admin_key
    headers = JSON | {"Authorization": f"Bearer {secret}"}
    content = body()
    with Cost(stack) as cost:
        reply = stack.http.post(path, content=content, headers=headers)
    seen(f"{name}: {reply.status_code} after {cost}")
    assert reply.status_code < 500
    assert cost.seconds < QUICKLY


FILES: dict[str, Callable[[], bytes]] = {
    "gzip that inflates to 1 GB": lambda: gzip_bomb(1 << 30),
    "zip": lambda: b"PK\x03\x04" + b"\0" * 1000,
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a Parquet file that is none": lambda: b"PAR1" + b"\xff" * 100_000 + b"PAR1",
    "a line with 100,000 equal names": lambda: b"{" + b'"question":"x",' * 60_000 + b'"a":1}',
    "100,000 nested lists": lambda: f'{{"question": {nested(100_000)}}}'.encode(),
    "UTF-16 without an end": lambda: b"\xff\xfe" + b"\0" * 1_000_001,
    "NUL": lambda: b"\0" * 1_000_000,
    "a row of 10 million commas": lambda: b"question,answer\n" + b"," * 10_000_000,
}


@pytest.mark.attack(
    "time and memory",
    "uploads that are bombs, pickles or no labels at all",
    promise="400 or 413 within 5 s; nothing is inflated or stored",
)
@pytest.mark.parametrize("name", FILES)
def test_an_upload_of_the_worst_kind_is_refused_at_once(
    stack: Any, admin: Any, seen: Seen, name: str
) -> None:
    content = FILES[name]()
    before = admin.get(f"{V1}/files").json()["data"]
    with Cost(stack) as cost:
        reply = admin.post(f"{V1}/files", files={"file": ("labeled.jsonl", content)})
    seen(f"{name}: {reply.status_code} after {cost}")
    assert reply.status_code in (400, 413)
    assert admin.get(f"{V1}/files").json()["data"] == before
    assert cost.seconds < QUICKLY
    assert cost.growth_bytes < 2 * MAX_GROWTH_BYTES


@pytest.mark.attack(
    "time and memory",
    "bodies packed with gzip, which inflate to 1 GB",
    promise="nothing is inflated: 400",
)
@pytest.mark.parametrize("path", [CHAT, JOBS, "/tokenize"])
def test_a_packed_body_is_not_inflated(stack: Any, seen: Seen, path: str) -> None:
    secret = stack.admin_key if path == JOBS else USERS_KEY
    headers = JSON | {"Content-Encoding": "gzip", "Authorization": f"Bearer {secret}"}
    with Cost(stack) as cost:
        reply = stack.http.post(path, content=gzip_bomb(1 << 30), headers=headers)
    seen(f"{path} {reply.status_code} after {cost}")
    assert reply.status_code == 400
    assert cost.growth_bytes < MAX_GROWTH_BYTES


# Requests that do not end -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.attack(
    "time and memory",
    "200 requests whose bodies come by one byte",
    promise="users, health and readiness are answered; the admin API ends each with 408",
)
def test_slow_bodies_hold_nobody_up(stack: Any, honest: HonestUser, seen: Seen) -> None:
    def head(path: str, secret: str) -> bytes:
        lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Length: 1000")
        lines += ("Content-Type: application/json", f"Authorization: Bearer {secret}")
        return "\r\n".join((*lines, "", "{")).encode()

    with ExitStack() as open_connections:
        slow = []
        for number in range(200):
            address = ("127.0.0.1", stack.port)
            connection = socket.create_connection(address, timeout=60)
            slow.append(open_connections.enter_context(connection))
            is_admins = number % 2 == 0
            path, secret = (JOBS, stack.admin_key) if is_admins else (CHAT, USERS_KEY)
            connection.sendall(head(path, secret))
        start = time.monotonic()
        ready = [stack.http.get(path).status_code for path in ("/tempo/readyz", "/health")]
        stored_after = honest.seconds_until_stored()
        meanwhile = time.monotonic() - start
        ends = Counter(connection.recv(64).split()[1].decode() for connection in slow[::2])
    seen(f"readiness and health {ready} and a question stored in {meanwhile:.1f} s; then {ends}")
    assert ready == [200, 200]
    assert stored_after < QUICKLY
    assert ends == {"408": 100}


@pytest.fixture
def uploads(stack: Any) -> Iterator[list[threading.Thread]]:
    """Forty uploads at once of a label on which its verifier hangs; their statuses by thread."""
    # The verifier hangs on the last line; the process has started by then.
    lines = [LINE | {"question": f"{n} + {n}?", "verifier": "exact"} for n in range(7)]
    content = "\n".join(map(json.dumps, [*lines, LINE])).encode()
    headers = {"Authorization": f"Bearer {stack.admin_key}"}

    def upload(thread: Any) -> None:
        url = f"{stack.base_url}{V1}/files?"
        files = {"file": ("labeled.jsonl", content)}
        reply = httpx.post(url, files=files, headers=headers, timeout=600)
        thread.reply = reply.text
        thread.status = reply.status_code

    threads = [threading.Thread(daemon=True) for _ in range(40)]
    for thread in threads:
        thread.run = lambda t=thread: upload(t)  # type: ignore[method-assign]
        thread.status = 0  # type: ignore[attr-defined]
        thread.start()
    yield threads
    for thread in threads:
        thread.join(120)
    ends = [(t.status, "verifier_timeout" in t.reply) for t in threads]  # type: ignore[attr-defined]
    assert Counter(ends) == {(429, False): 28, (400, True): 12}


@pytest.mark.slow
@pytest.mark.attack(
    "time and memory",
    "40 uploads on which a verifier hangs",
    promise="28 get 429; users, health and readiness are answered meanwhile",
)
def test_uploads_that_hang_take_nothing_from_others(
    stack: Any, honest: HonestUser, uploads: list[Any], seen: Seen
) -> None:
    eventually(lambda: sum(thread.status == 429 for thread in uploads) == 28, seconds=30)
    start = time.monotonic()
    ready = [stack.http.get(path).status_code for path in ("/tempo/readyz", "/health")]
    honest.seconds_until_stored()
    seconds = time.monotonic() - start
    counts = Counter(thread.status for thread in uploads)
    seen(f"{counts[429]} got 429, {counts[0]} ran or waited; all else {ready} in {seconds:.1f} s")
    assert ready == [200, 200]
    assert seconds < QUICKLY
