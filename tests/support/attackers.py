"""The means of attackers: raw bytes to a port, bodies of the worst kind, and an honest user."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
from sqlalchemy import select
from traffic import CHAT
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.ledger.models import Question

USERS_KEY = "sk-of-all-users"
PROXY = "127.0.0.2"  # the only address whose header names a tenant
TENANT_HEADER = "X-User-Id"
SILENT = "a tenant that the operator opted out"
LIMIT = 300  # questions of a tenant in a minute
POOL = 200  # questions that the worker keeps
JSON = {"content-type": "application/json"}
QUIET_SECONDS = 0.5  # without a byte, after which an answer is whole
V1 = "/tempo/v1"
JOBS = f"{V1}/fine_tuning/jobs"


class HonestUser:
    """A user behind the trusted proxy, who goes on asking whatever others do."""

    def __init__(self, server: Any, name: str = "honest") -> None:
        self._server = server
        self._name = name
        self._http = httpx.Client(
            base_url=server.base_url,
            headers={"Authorization": f"Bearer {USERS_KEY}", TENANT_HEADER: name},
            transport=httpx.HTTPTransport(local_address=PROXY),
            timeout=60,
        )
        self._number = 0

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        """Ask a question; fail unless it is answered."""
        reply = self._http.post(CHAT, json=chat(text, **fields))
        assert reply.status_code == 200, reply.text
        return reply

    def seconds_until_stored(self) -> float:
        """Ask a question; return the seconds until it is in the ledger."""
        self._number += 1
        text = f"an honest question, number {self._number} of {self._name}"  # no redactor reads it
        start = time.monotonic()
        self.ask(text)
        eventually(lambda: stored(self._server, text), seconds=30)
        return time.monotonic() - start

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """Return the body of a chat with one question and one token of answer."""
    messages = [{"role": "user", "content": text}]
    return {"model": "tempo", "messages": messages, "max_tokens": 1, **fields}


def stored(server: Any, text: str) -> list[Question]:
    """Return the captured questions in the ledger with a text in a message."""
    with server.sessions() as s:
        rows = s.scalars(select(Question).order_by(Question.captured_at.desc()).limit(500))
        return [row for row in rows if text in json.dumps(row.messages, ensure_ascii=False)]


def counted(server: Any, name: str) -> int:
    """Return a counter of the capture, as the server wrote it last."""
    with server.sessions() as s:
        processes = ledger.versions.processes(s, alive_within_seconds=10)
        return sum(process.counters.get(name, 0) for process in processes)


def resident_bytes(process_id: int) -> int:
    """Return the memory of a process."""
    return int(psutil.Process(process_id).memory_info().rss)


def nested(depth: int) -> str:
    """Return so many JSON lists, each in the one before."""
    return "[" * depth + "]" * depth


def gzip_bomb(size: int) -> bytes:
    """Return a gzip file of `size` zeros."""
    return gzip.compress(bytes(1 << 20), 9) * (size >> 20)


def raw(server: Any, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send bytes to the server; return its answer until it is quiet or closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while more := connection.recv(65_536):
                answer += more
                connection.settimeout(QUIET_SECONDS)
        except TimeoutError:
            assert answer, f"no answer within {seconds:.0f} s to {data[:200]!r}"
        return answer


def statuses(answer: bytes) -> list[int]:
    """Return the status of each HTTP answer among raw bytes."""
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line.split()[1]) for line in lines]


def slowly(size: int, *, piece: int = 1 << 20) -> Iterator[bytes]:
    """Yield so many bytes in pieces, as a chunked body."""
    for _ in range(size // piece):
        yield b" " * piece
