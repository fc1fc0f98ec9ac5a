"""Capture on real vLLM and Valkey: once, not when opted out, and never in the way."""

import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.service]

ARRIVAL_SECONDS = 10.0


def ask(server: Any, text: str, *, headers: dict[str, str] | None = None, **options: Any) -> float:
    """Ask with a text that finds the question again; return the seconds that it took."""
    request = {"model": "tempo", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    started = time.perf_counter()
    reply = server.http.post("/v1/chat/completions", json=request | options, headers=headers)
    seconds = time.perf_counter() - started
    assert reply.status_code == 200
    return seconds


def arrived(server: Any) -> list[dict[str, Any]]:
    """Take what is in the stream, as the worker would."""
    entries = server.stream.read(10_000)
    if entries:
        server.stream.acknowledge([entry_id for entry_id, _ in entries])
    return [question for _, question in entries]


def wait_for(server: Any, texts: set[str]) -> list[dict[str, Any]]:
    """Take questions until all `texts` are there, and a little longer to see repetitions."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while time.monotonic() < deadline and not texts <= {text_of(q) for q in found}:
        found += arrived(server)
        time.sleep(0.05)
    time.sleep(0.5)
    return found + arrived(server)


def text_of(question: dict[str, Any]) -> str:
    return str(question["messages"][-1]["content"])


@pytest.fixture(scope="module", autouse=True)
def base_serves(server: Any) -> None:
    server.serve_base()


@pytest.fixture(autouse=True)
def clean(server: Any) -> Iterator[None]:
    """Begin with an empty stream, and with Valkey running."""
    time.sleep(0.3)
    arrived(server)
    yield
    server.valkey.restart_if_dead()


def test_a_question_arrives_once_with_what_asking_it_again_needs(server: Any) -> None:
    ask(server, "use 1 2 3", temperature=0.5)
    (question,) = wait_for(server, {"use 1 2 3"})
    assert question["messages"] == [{"role": "user", "content": "use 1 2 3"}]
    assert question["adapter_version"] == 0
    assert question["sampling"]["temperature"] == 0.5
    assert question["id"].startswith("q_")
    assert question["captured_at"] == pytest.approx(time.time(), abs=60)


def test_a_stream_and_text_parts_are_captured_too(server: Any) -> None:
    parts = [{"type": "text", "text": "use 4"}, {"type": "text", "text": "5 6"}]
    request = {"messages": [{"role": "user", "content": parts}], "stream": True}
    ask(server, "", **request)
    assert [text_of(q) for q in wait_for(server, {"use 4\n5 6"})] == ["use 4\n5 6"]


def test_who_opts_out_and_the_worker_are_found_nowhere(server: Any) -> None:
    ask(server, "zebra 1", headers={"X-Tempo-Opt-Out": "1"})
    ask(server, "zebra 2", store=False)
    ask(server, "zebra 3", headers={"X-Tempo-Key": server.admin_key})
    reply = server.http.post(
        "/v1/chat/completions",
        json={"model": "nobody", "messages": [{"role": "user", "content": "zebra 4"}]},
    )
    assert reply.status_code == 404
    ask(server, "seen")
    assert [text_of(q) for q in wait_for(server, {"seen"})] == ["seen"]
    for file in server.data_dir.rglob("*"):
        if file.is_file():
            assert b"zebra" not in file.read_bytes(), file


@pytest.mark.fault(5, "kill -9 of Valkey", promise="no request fails, each question arrives later")
def test_while_valkey_is_down_requests_go_on_and_questions_arrive_later(server: Any) -> None:
    up = statistics.median(ask(server, f"up {i}") for i in range(15))
    arrived(server)
    server.valkey.process.send_signal(signal.SIGKILL)
    server.valkey.process.wait(10)
    down = statistics.median(ask(server, f"down {i}") for i in range(15))
    assert down < 1.5 * up + 0.01
    assert list((server.data_dir / "spool").glob("*-*.[aj]*"))
    assert server.valkey.restart_if_dead()
    texts = {f"down {i}" for i in range(15)}
    found = [text_of(q) for q in wait_for(server, texts)]
    assert sorted(t for t in found if t.startswith("down")) == sorted(texts)


@pytest.mark.fault(
    4, "kill -9 of the server under load", promise="each 2xx is in stream, spool or SQL"
)
def test_questions_survive_kill_9_of_vllm_while_valkey_is_down(server: Any) -> None:
    server.valkey.process.send_signal(signal.SIGKILL)
    server.valkey.process.wait(10)
    texts = {f"kept {i}" for i in range(8)}
    for text in texts:
        ask(server, text)
    server.stop(with_signal=signal.SIGKILL)
    assert server.valkey.restart_if_dead()
    server.restart()
    assert {text_of(q) for q in wait_for(server, texts)} >= texts
