"""Users: they ask, their questions are captured, and they note who answered."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tempo_storage import question_hash

ARRIVAL_SECONDS = 10.0
SETTLE_SECONDS = 0.5  # in which a question that is captured twice would arrive again
CHAT = "/v1/chat/completions"


def ask(server: Any, text: str, *, headers: dict[str, str] | None = None, **options: Any) -> float:
    """Ask by chat, with a text that identifies the question; return the seconds of the request."""
    request = {"model": "tempo", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    start = time.perf_counter()
    reply = server.http.post(CHAT, json=request | options, headers=headers)
    seconds = time.perf_counter() - start
    assert reply.status_code == 200, reply.text
    return seconds


def answering_version(server: Any, model: str = "tempo") -> str:
    """Return the name of the version that answers one more request."""
    request = {"model": model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
    reply = server.http.post(CHAT, json=request, headers={"X-Tempo-Opt-Out": "1"})
    assert reply.status_code == 200, reply.text
    return str(reply.headers["x-tempo-adapter"])


# Captured questions ------------------------------------------------------------------------------


def take_questions(server: Any) -> list[dict[str, Any]]:
    """Take every question out of the stream, as the worker does."""
    questions = []
    while entries := server.stream.read(10_000):
        server.stream.acknowledge([entry_id for entry_id, _ in entries])
        questions += [question for _, question in entries]
    return questions


def text_of(question: dict[str, Any]) -> str:
    """Return the text of a question's last message."""
    return question_hash.text_of(question["messages"][-1]["content"])


def wait_for_questions(server: Any, texts: set[str]) -> list[dict[str, Any]]:
    """Take questions until all `texts` are there, and those that arrive a moment later."""
    questions: list[dict[str, Any]] = []
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while time.monotonic() < deadline and not texts <= {text_of(q) for q in questions}:
        questions += take_questions(server)
        time.sleep(0.05)
    time.sleep(SETTLE_SECONDS)
    return questions + take_questions(server)


def missing(server: Any, texts: set[str]) -> set[str]:
    """Return those of the texts that do not arrive in the stream."""
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while texts and time.monotonic() < deadline:
        texts = texts - {text_of(question) for question in take_questions(server)}
        time.sleep(0.1)
    return texts


# Users that go on asking -------------------------------------------------------------------------


class User(threading.Thread):
    """Asks question after question, and notes each one whose answer began."""

    def __init__(self, server: Any, name: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._name = name
        self.accepted: set[str] = set()
        self.adapters: list[str] = []
        self.codes: set[int] = set()
        self.enough = threading.Event()

    def run(self) -> None:
        """Ask until `enough` is set or the server is gone."""
        with httpx.Client(base_url=self._server.base_url, timeout=60) as http:
            while not self.enough.is_set():
                try:
                    self._ask(http, f"{self._name} asks {len(self.accepted)}")
                except httpx.TransportError:
                    return

    def _ask(self, http: httpx.Client, text: str) -> None:
        messages = [{"role": "user", "content": text}]
        request = {"model": "tempo", "messages": messages, "max_tokens": 8, "stream": True}
        with http.stream("POST", CHAT, json=request) as reply:
            self.codes.add(reply.status_code)
            if reply.status_code == 200:  # accepted, even if the stream is cut later
                self.accepted.add(text)
                self.adapters.append(reply.headers["x-tempo-adapter"])
            for _ in reply.iter_bytes():
                pass


@contextmanager
def users(server: Any, number: int, *, name: str) -> Iterator[list[User]]:
    """Let several users ask until the block ends."""
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
