"""Users of a server that is about to be hurt, and what became of what they asked."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx


def eventually(claim: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Return what the claim came to once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := claim()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
    return found


def ask(server: Any, text: str) -> float:
    """Ask with a text that finds the question again; return the seconds that it took."""
    request = {"model": "tempo", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    began = time.perf_counter()
    reply = server.http.post("/v1/chat/completions", json=request)
    assert reply.status_code == 200, reply.text
    return time.perf_counter() - began


def arrived(server: Any) -> list[dict[str, Any]]:
    """Take what is in the stream, as the worker would."""
    taken = []
    while entries := server.stream.read(10_000):
        server.stream.acknowledge([entry_id for entry_id, _ in entries])
        taken += [question for _, question in entries]
    return taken


def missing(server: Any, texts: set[str], *, seconds: float = 10.0) -> set[str]:
    """Return which of the texts are not in the stream by then."""
    deadline = time.monotonic() + seconds
    while texts and time.monotonic() < deadline:
        texts = texts - {str(q["messages"][-1]["content"]) for q in arrived(server)}
        time.sleep(0.1)
    return texts


class User(threading.Thread):
    """Asks for as long as it is answered, and remembers what was answered and by whom."""

    def __init__(self, server: Any, name: str) -> None:
        super().__init__(daemon=True)
        self._server, self._name = server, name
        self.accepted: set[str] = set()
        self.adapters: list[str] = []
        self.codes: set[int] = set()
        self.enough = threading.Event()

    def run(self) -> None:
        """Ask until it is enough, or until nobody answers; a stream counts from its first byte."""
        with httpx.Client(base_url=self._server.base_url, timeout=60) as http:
            while not self.enough.is_set():
                try:
                    self._ask(http, f"{self._name} asks {len(self.accepted)}")
                except httpx.TransportError:
                    return

    def _ask(self, http: httpx.Client, text: str) -> None:
        messages = [{"role": "user", "content": text}]
        request = {"model": "tempo", "messages": messages, "max_tokens": 8, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=request) as reply:
            self.codes.add(reply.status_code)
            if reply.status_code == 200:
                self.accepted.add(text)
                self.adapters.append(reply.headers["x-tempo-adapter"])
            for _ in reply.iter_bytes():
                pass


@contextmanager
def users(server: Any, number: int, *, name: str) -> Iterator[list[User]]:
    """Let some ask until the block ends."""
    asking = [User(server, f"{name} {n}") for n in range(number)]
    for user in asking:
        user.start()
    try:
        yield asking
    finally:
        for user in asking:
            user.enough.set()
        for user in asking:
            user.join(60)
