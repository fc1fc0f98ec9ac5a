"""Capture on real vLLM and Valkey: each question once, none that opts out, and nobody waits."""

import signal
import statistics
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from traffic import ask, take_questions, text_of, wait_for_questions

from tempo_trainer.sampling.sampler import tokenize_body

pytestmark = [pytest.mark.vllm, pytest.mark.service]

REQUESTS = 15
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def base_serves(server: Any) -> None:
    server.serve_base()


@pytest.fixture(autouse=True)
def empty_stream(server: Any) -> Iterator[None]:
    """Start with an empty stream, and end with a Valkey that runs."""
    time.sleep(0.3)
    take_questions(server)
    yield
    server.valkey.restart_if_dead()


def kill_valkey(server: Any) -> None:
    server.valkey.process.send_signal(signal.SIGKILL)
    server.valkey.process.wait(10)


def test_a_question_arrives_once_with_all_that_is_needed_to_ask_it_again(server: Any) -> None:
    ask(server, "use 1 2 3", temperature=0.5)
    (question,) = wait_for_questions(server, {"use 1 2 3"})
    assert question["messages"] == [{"role": "user", "content": "use 1 2 3"}]
    assert question["temperature"] == 0.5
    assert question["id"].startswith("q_")
    assert question["captured_at"] == pytest.approx(time.time(), abs=60)


def test_a_question_in_text_parts_is_captured_when_its_answer_is_streamed(server: Any) -> None:
    parts = [{"type": "text", "text": "use 4"}, {"type": "text", "text": "5 6"}]
    request = {"messages": [{"role": "user", "content": parts}], "stream": True}
    ask(server, "", **request)
    assert [text_of(q) for q in wait_for_questions(server, {"use 4\n5 6"})] == ["use 4\n5 6"]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "use 1 2"}]])
def test_the_prompt_of_a_captured_chat_is_the_one_that_vllm_answered(
    server: Any, system: list[Any]
) -> None:
    parts = [{"type": "text", "text": text} for text in ("use 4", "5 6 make 15 ?")]
    messages = [*system, {"role": "user", "content": parts}]
    request = {"model": "tempo", "messages": messages, "max_tokens": 1, "return_token_ids": True}
    ids = server.http.post("/v1/chat/completions", json=request).json()["prompt_token_ids"]
    (question,) = wait_for_questions(server, {"use 4\n5 6 make 15 ?"})
    row = SimpleNamespace(**question)
    reply = server.http.post("/tokenize", content=tokenize_body(row), headers=JSON).json()
    assert reply["tokens"] == ids
    assert len(ids) >= 8


def test_no_file_holds_a_question_that_opted_out_was_the_worker_s_or_failed(server: Any) -> None:
    ask(server, "zebra 1", headers={"X-Tempo-Opt-Out": "1"})
    ask(server, "zebra 2", store=False)
    ask(server, "zebra 3", headers={"X-Tempo-Key": server.admin_key})
    reply = server.http.post(
        "/v1/chat/completions",
        json={"model": "nobody", "messages": [{"role": "user", "content": "zebra 4"}]},
    )
    assert reply.status_code == 404
    ask(server, "seen")
    assert [text_of(q) for q in wait_for_questions(server, {"seen"})] == ["seen"]
    for file in server.data_dir.rglob("*"):
        if file.is_file():
            assert b"zebra" not in file.read_bytes(), file


@pytest.mark.fault(5, "kill -9 of Valkey", promise="no request fails; each question arrives later")
def test_while_valkey_is_dead_requests_go_on_and_their_questions_arrive_later(
    server: Any,
) -> None:
    seconds_up = statistics.median(ask(server, f"up {i}") for i in range(REQUESTS))
    take_questions(server)
    kill_valkey(server)
    seconds_down = statistics.median(ask(server, f"down {i}") for i in range(REQUESTS))
    assert seconds_down < 1.5 * seconds_up + 0.01
    assert list((server.data_dir / "spool").glob("*-*.[aj]*"))
    assert server.valkey.restart_if_dead()
    texts = {f"down {i}" for i in range(REQUESTS)}
    captured = [text_of(q) for q in wait_for_questions(server, texts)]
    assert sorted(text for text in captured if text.startswith("down")) == sorted(texts)


@pytest.mark.fault(
    4,
    "kill -9 of the server under load",
    promise="each question with a 2xx answer is in stream, spool or SQL",
)
def test_questions_survive_kill_9_of_vllm_while_valkey_is_dead(server: Any) -> None:
    kill_valkey(server)
    texts = {f"kept {i}" for i in range(8)}
    for text in texts:
        ask(server, text)
    server.stop(with_signal=signal.SIGKILL)
    assert server.valkey.restart_if_dead()
    server.restart()
    assert {text_of(q) for q in wait_for_questions(server, texts)} >= texts
