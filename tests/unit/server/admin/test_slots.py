"""Work that takes long has slots of its own, and a body must come in time."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tempo_server.admin import route, slots
from tempo_server.admin.slots import MAX_WAITING, SLOTS, Slots


@pytest.fixture
def hanging(admin: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let each check of references hang until the event is set."""
    release = threading.Event()

    def check(examples: Any) -> list[Any]:
        release.wait(30)
        return []

    monkeypatch.setattr("tempo_server.admin.files.references.check", check)
    admin.app.state.tempo_slots = Slots()
    yield release
    release.set()


async def at_once(admin: Any, address: str, labeled: bytes, release: threading.Event) -> Any:
    """Send 40 uploads; return their statuses, and how long a readiness check took meanwhile."""
    headers = {"Authorization": f"Bearer {admin.key}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:
        files = [{"file": (f"{n}.jsonl", labeled)} for n in range(40)]
        posts = [client.post("/tempo/v1/files", files=one) for one in files]
        uploads = [asyncio.ensure_future(post) for post in posts]
        while sum(upload.done() for upload in uploads) < 40 - SLOTS - MAX_WAITING:
            await asyncio.sleep(0.05)
        started = time.monotonic()
        ready = await client.get("/tempo/readyz")
        seconds = time.monotonic() - started
        release.set()
        replies = await asyncio.gather(*uploads)
    return ready, seconds, replies


def test_40_hanging_uploads_take_no_readiness_away_and_some_are_told_to_wait(
    admin: Any, address: str, labeled: bytes, hanging: threading.Event
) -> None:
    ready, seconds, replies = asyncio.run(at_once(admin, address, labeled, hanging))
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert seconds < 5
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(refused) == 40 - SLOTS - MAX_WAITING
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert refused[0].headers["retry-after"]
    assert sum(reply.status_code == 200 for reply in replies) == SLOTS + MAX_WAITING


def test_a_request_waits_for_a_slot_only_so_long(
    admin: Any, labeled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "WAIT_SECONDS", 0.05)
    admin.app.state.tempo_slots = Slots(running=asyncio.Semaphore(0))
    try:
        assert admin.upload(labeled).status_code == 429
        assert admin.app.state.tempo_slots.waiting == 0
    finally:
        admin.app.state.tempo_slots = Slots()


def test_a_body_that_comes_too_slowly_is_refused(
    admin: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "BODY_SECONDS", 0.3)
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        head = "POST /tempo/v1/training/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        head += f"Content-Type: application/json\r\nAuthorization: Bearer {admin.key}\r\n\r\n"
        connection.sendall(head.encode() + b'{"reason": "')
        reply = connection.recv(4096)
    assert b" 408 " in reply.partition(b"\r\n")[0]
    assert b"request_timeout" in reply
