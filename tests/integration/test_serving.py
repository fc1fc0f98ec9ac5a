"""Serving on real vLLM: names, streams, promotions, refusals, restart."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.adapters import trial_name, version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

QUESTIONS = [puzzle.question for puzzle in countdown.puzzles()[::400]]
SWAP_SECONDS = 2.0
LONG: dict[str, Any] = {"max_tokens": 100, "extra_body": {"ignore_eos": True}}


@dataclass(frozen=True)
class Answer:
    """What came back: the header, the names in the body or in its chunks, and the text."""

    adapter: str
    models: frozenset[str]
    text: str


def body(model: str, question: str, **options: Any) -> dict[str, Any]:
    message = {"role": "user", "content": question}
    return {"model": model, "messages": [message], "temperature": 0, "max_tokens": 14} | options


def ask(server: Any, model: str, question: str = QUESTIONS[0], **options: Any) -> Answer:
    raw = server.client.chat.completions.with_raw_response.create(
        **body(model, question, **options)
    )
    completion = raw.parse()
    text = completion.choices[0].message.content or ""
    return Answer(raw.headers["x-tempo-adapter"], frozenset({completion.model}), text)


def stream(server: Any, model: str, question: str = QUESTIONS[0], **options: Any) -> Answer:
    request = body(model, question, stream=True, **options)
    with server.client.chat.completions.with_streaming_response.create(**request) as raw:
        chunks = list(raw.parse())
        adapter = raw.headers["x-tempo-adapter"]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return Answer(adapter, frozenset(c.model for c in chunks), text)


def status(server: Any, model: str, *, key: str | None = None) -> tuple[int, Any]:
    headers = {"X-Tempo-Key": key} if key else {}
    reply = server.http.post(
        "/v1/chat/completions", json=body(model, QUESTIONS[0]), headers=headers
    )
    return reply.status_code, reply.json()


@pytest.fixture(scope="module", autouse=True)
def base_serves(server: Any) -> None:
    server.serve_base()


@pytest.fixture
def serving(server: Any, make_version: Any) -> Iterator[int]:
    """A new version that serves; afterwards the base serves again."""
    version = make_version(seed=time.time_ns() % 1000, scale=1.0)
    server.promote(version)
    yield version
    server.serve_base()


def test_the_base_answers_under_its_own_name_until_something_is_promoted(server: Any) -> None:
    for model in ("tempo", "tiny", "tempo-v0"):
        answer = ask(server, model)
        assert (answer.adapter, answer.models) == ("tempo-v0", {"tiny"})


def test_every_chunk_of_a_stream_names_the_version_bound_at_entry(
    server: Any, serving: int
) -> None:
    name = version_name(serving)
    answer = stream(server, "tempo")
    assert (answer.adapter, answer.models) == (name, {name})
    assert answer.text != stream(server, "tempo-v0").text


def test_the_alias_answers_as_vllm_alone_answers_for_the_pinned_version(
    server: Any, serving: int
) -> None:
    name = version_name(serving)
    for question in QUESTIONS[:5]:
        request = body(name, question)
        request["messages"] = [request["messages"]]
        stock = server.http.post("/v1/chat/completions/batch", json=request).json()  # not wrapped
        assert stock["model"] == name
        text = stock["choices"][0]["message"]["content"]
        assert ask(server, "tempo", question).text == text
        assert stream(server, "tempo", question).text == text
        assert ask(server, name, question).text == text


def test_a_promotion_fails_no_stream_and_each_names_its_own_version_to_the_end(
    server: Any, serving: int, make_version: Any
) -> None:
    old, new = version_name(serving), make_version(seed=7, scale=1.0)

    def stream_until_new(question: str) -> list[Answer]:
        answers = [stream(server, "tempo", question, **LONG)]
        while answers[-1].adapter == old:
            answers.append(stream(server, "tempo", question, **LONG))
        return answers

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(stream_until_new, question) for question in QUESTIONS[:8]]
        time.sleep(1)
        with server.sessions.begin() as s:
            ledger.versions.promote(s, new)
        promoted_at = time.monotonic()
        while ask(server, "tempo").adapter != version_name(new):
            assert time.monotonic() - promoted_at < SWAP_SECONDS
        answers = [answer for future in futures for answer in future.result()]
    assert all(future.result()[0].adapter == old for future in futures)
    assert {a.adapter for a in answers} == {old, version_name(new)}
    assert all(a.models == {a.adapter} for a in answers)
    assert ask(server, old).adapter == old  # the previous version stays for users to name


def test_unknown_names_get_vllms_own_404(server: Any) -> None:
    code, reply = status(server, "no-such-model")
    assert code == 404
    assert reply["error"]["type"] == "NotFoundError"
    assert reply["error"]["message"].startswith("The model `no-such-model` does not exist.")


def test_users_cannot_name_snapshots_and_candidates_but_the_worker_can(
    server: Any, make_version: Any, make_adapter: Any
) -> None:
    make_adapter(server.store, trial_name(1), seed=5, scale=1.0)
    for name in (trial_name(1), version_name(make_version(seed=6, scale=1.0))):
        assert status(server, name, key=server.admin_key)[1]["model"] == name
        code, reply = status(server, name)  # also when it is loaded by now
        unknown = status(server, "x")[1]["error"]["message"].replace("`x`", f"`{name}`")
        assert (code, reply["error"]["message"]) == (404, unknown)
        assert status(server, name, key="tk_wrong")[0] == 404


def test_models_shows_each_public_version_once_and_no_snapshot(
    server: Any, serving: int, make_adapter: Any
) -> None:
    make_adapter(server.store, trial_name(2), seed=5, scale=1.0)
    assert status(server, trial_name(2), key=server.admin_key)[0] == 200
    names = [card["id"] for card in server.http.get("/v1/models").json()["data"]]
    assert sorted(names) == sorted(["tiny", "tempo", "tempo-v0", version_name(serving)])


def damage(server: Any, version: int) -> None:
    path = server.store.path(version_name(version)) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.fault(
    10,
    "a damaged adapter, or another base or rank",
    promise="refused with the remedy, the old one serves",
)
@pytest.mark.parametrize(
    ("options", "remedy", "type_name"),
    [
        ({}, "roll back to another version", "adapter.corrupt"),
        ({"rank": 32}, "restart with --max-lora-rank 32", "adapter.refused"),
        ({"base": "else/where"}, "serve 'else/where'", "adapter.refused"),
    ],
)
def test_what_cannot_serve_is_refused_with_the_remedy_while_the_old_version_serves(
    server: Any,
    serving: int,
    make_version: Any,
    options: dict[str, Any],
    remedy: str,
    type_name: str,
) -> None:
    version = make_version(seed=8, **options)
    if not options:
        damage(server, version)
    with server.sessions.begin() as s:
        sequence = ledger.versions.promote(s, version).sequence
    error = server.wait_for_sequence(sequence)
    with server.sessions() as s:  # a damaged one is no longer pointed at, and no error lasts
        assert remedy in (ledger.versions.adapter(s, version).report.get("corrupt") or error)
    assert ask(server, "tempo").adapter == version_name(serving)
    time.sleep(1.5)  # another poll: the event must not repeat
    with server.sessions() as s:
        found = [e for e in ledger.events.find(s, limit=1000) if e.data.get("version") == version]
    assert [e.type for e in found if e.level == "error"] == [type_name]
    assert status(server, version_name(version), key=server.admin_key)[0] == 409
    with server.sessions.begin() as s:
        sequence = ledger.versions.promote(s, serving).sequence
    assert server.wait_for_sequence(sequence) is None


@pytest.mark.fault(14, "vLLM restarts", promise="its first answer is the promoted version")
def test_after_a_restart_the_first_answer_comes_from_what_was_promoted(
    server: Any, serving: int
) -> None:
    before = ask(server, "tempo")
    server.restart()
    after = ask(server, "tempo")
    assert after == before
    assert after.adapter == version_name(serving)


def test_a_completion_with_logprobs_does_not_stall(server: Any) -> None:
    request = {"model": "tempo-v0", "prompt": [[1, 2]], "max_tokens": 1, "logprobs": 0}
    started = time.monotonic()
    reply = server.http.post("/v1/completions", json=request)
    assert reply.status_code == 200, json.dumps(reply.json())
    assert time.monotonic() - started < 2
