"""Serving on real vLLM: names, streams, promotions, refusals, a restart."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from adapters import WEIGHTS, flip_a_byte
from answers import Answer, chat

from tempo_lab.tasks import countdown
from tempo_storage import ledger
from tempo_storage.adapters import trial_name, version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]

QUESTIONS = [puzzle.question for puzzle in countdown.puzzles()[::400]]
QUESTION = QUESTIONS[0]
SWAP_SECONDS = 2.0
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 14}
LONG: dict[str, Any] = {"temperature": 0, "max_tokens": 100, "extra_body": {"ignore_eos": True}}


def ask(server: Any, model: str, question: str = QUESTION, *, stream: bool = False) -> Answer:
    return chat(server, question, model=model, stream=stream, **GREEDY)


def post(server: Any, model: str, *, key: str | None = None) -> tuple[int, Any]:
    """Return status and body of a request, as the worker sends it when there is a key."""
    headers = {"X-Tempo-Key": key} if key else {}
    request = {"model": model, "messages": [{"role": "user", "content": QUESTION}]} | GREEDY
    reply = server.http.post("/v1/chat/completions", json=request, headers=headers)
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


# Names -------------------------------------------------------------------------------------------


def test_the_base_answers_under_its_own_name_until_a_version_is_promoted(server: Any) -> None:
    for model in ("tempo", "tiny", "tempo-v0"):
        answer = ask(server, model)
        assert (answer.adapter, answer.models) == ("tempo-v0", {"tiny"})


def test_every_chunk_of_a_stream_names_the_version_bound_at_entry(
    server: Any, serving: int
) -> None:
    name = version_name(serving)
    answer = ask(server, "tempo", stream=True)
    assert (answer.adapter, answer.models) == (name, {name})
    assert answer.text != ask(server, "tempo-v0", stream=True).text


def test_the_alias_answers_as_vllm_alone_answers_for_the_pinned_version(
    server: Any, serving: int
) -> None:
    name = version_name(serving)
    for question in QUESTIONS[:5]:
        request = {"model": name, "messages": [[{"role": "user", "content": question}]]} | GREEDY
        # The plugin does not wrap this route.
        stock = server.http.post("/v1/chat/completions/batch", json=request).json()
        assert stock["model"] == name
        text = stock["choices"][0]["message"]["content"]
        assert ask(server, "tempo", question).text == text
        assert ask(server, "tempo", question, stream=True).text == text
        assert ask(server, name, question).text == text


def test_an_unknown_name_gets_vllm_s_own_404(server: Any) -> None:
    code, reply = post(server, "no-such-model")
    assert code == 404
    assert reply["error"]["type"] == "NotFoundError"
    assert reply["error"]["message"].startswith("The model `no-such-model` does not exist.")


def test_only_the_worker_can_name_snapshots_and_candidates(
    server: Any, make_version: Any, make_trial: Any
) -> None:
    make_trial(1, seed=5, scale=1.0)
    for name in (trial_name(1), version_name(make_version(seed=6, scale=1.0))):
        assert post(server, name, key=server.admin_key)[1]["model"] == name
        code, reply = post(server, name)  # it is loaded now, and still no user can name it
        unknown = post(server, "x")[1]["error"]["message"].replace("`x`", f"`{name}`")
        assert (code, reply["error"]["message"]) == (404, unknown)
        assert post(server, name, key="tk_wrong")[0] == 404


def test_the_list_of_models_has_each_public_version_once_and_no_snapshot(
    server: Any, serving: int, make_trial: Any
) -> None:
    make_trial(2, seed=5, scale=1.0)
    assert post(server, trial_name(2), key=server.admin_key)[0] == 200
    names = [card["id"] for card in server.http.get("/v1/models").json()["data"]]
    assert sorted(names) == sorted(["tiny", "tempo", "tempo-v0", version_name(serving)])


# Promotions --------------------------------------------------------------------------------------


def test_a_promotion_cuts_no_stream_and_each_stream_names_its_own_version_to_the_end(
    server: Any, serving: int, make_version: Any
) -> None:
    old = version_name(serving)
    new = make_version(seed=7, scale=1.0)

    def stream_until_new(question: str) -> list[Answer]:
        answers = [chat(server, question, stream=True, **LONG)]
        while answers[-1].adapter == old:
            answers.append(chat(server, question, stream=True, **LONG))
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
    assert ask(server, old).adapter == old  # users can still name the previous version


@pytest.mark.fault(
    10,
    "an adapter is damaged, or of another base or rank",
    promise="it is refused with the remedy; the old version serves",
)
@pytest.mark.parametrize(
    ("options", "remedy", "event_type"),
    [
        ({}, "roll back to another version", "adapter.corrupt"),
        ({"rank": 32}, "restart with --max-lora-rank 32", "adapter.refused"),
        ({"base": "else/where"}, "serve 'else/where'", "adapter.refused"),
    ],
    ids=["damaged", "another rank", "another base"],
)
def test_a_version_that_cannot_serve_is_refused_with_the_remedy_while_the_old_one_serves(
    server: Any,
    serving: int,
    make_version: Any,
    options: dict[str, Any],
    remedy: str,
    event_type: str,
) -> None:
    version = make_version(seed=8, **options)
    if not options:
        flip_a_byte(server.store.path(version_name(version)) / WEIGHTS)
    error = server.promote(version)
    with server.sessions() as s:
        # The pointer leaves a damaged version, and with it the process's error.
        assert remedy in (ledger.versions.adapter(s, version).report.get("corrupt") or error)
    assert ask(server, "tempo").adapter == version_name(serving)
    time.sleep(1.5)  # until the next poll, which must not repeat the event
    with server.sessions() as s:
        events = [e for e in ledger.events.find(s, limit=1000) if e.data.get("version") == version]
    assert [e.type for e in events if e.level == "error"] == [event_type]
    assert post(server, version_name(version), key=server.admin_key)[0] == 409
    assert server.promote(serving) is None


@pytest.mark.fault(14, "vLLM restarts", promise="its first answer is by the promoted version")
def test_after_a_restart_the_promoted_version_gives_the_first_answer(
    server: Any, serving: int
) -> None:
    before = ask(server, "tempo")
    server.restart()
    after = ask(server, "tempo")
    assert after == before
    assert after.adapter == version_name(serving)


def test_a_completion_with_log_probabilities_does_not_stall(server: Any) -> None:
    request = {"model": "tempo-v0", "prompt": [[1, 2]], "max_tokens": 1, "logprobs": 0}
    start = time.monotonic()
    reply = server.http.post("/v1/completions", json=request)
    assert reply.status_code == 200, json.dumps(reply.json())
    assert time.monotonic() - start < 2
