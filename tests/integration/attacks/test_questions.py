"""Nothing that a user asks, or a neighbour writes to Valkey, stops learning."""

import json
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from attackers import JSON, USERS_KEY, HonestUser, chat, counted, nested, stored
from ledgers import captured
from traffic import CHAT
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.ledger.models import Question
from tempo_storage.valkey.streams import STREAM
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.worker_settings import WorkerSettings

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

ARGUMENTS = {
    "600 nested lists": f'{{"a": {nested(600)}}}',
    "20 KB": json.dumps({"a": "x" * 20_000}),
    "NUL": '{"a": "\\u0000"}',
    "half a surrogate pair": '{"\\ud800": 1}',
    "an infinity": '{"a": 1e400}',
}


@pytest.mark.attack(
    "learning",
    "chat_template_kwargs of 600 nested lists, 20 KB, NUL, half a surrogate pair, 1e400",
    promise="no 5xx; the question is skipped and counted; the next one is stored",
)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_the_template_are_skipped_and_stop_nothing(
    stack: Any, honest: HonestUser, seen: Seen, name: str
) -> None:
    before = counted(stack, "skipped")
    body = json.dumps(chat(f"nested {name}"))[:-1]
    body += f', "chat_template_kwargs": {ARGUMENTS[name]}}}'
    reply = stack.http.post(CHAT, content=body.encode(), headers=JSON)
    assert reply.status_code in (200, 400), reply.text
    skipped = reply.status_code == 200
    eventually(lambda: counted(stack, "skipped") == before + skipped, seconds=10)
    seconds = honest.seconds_until_stored()
    assert stored(stack, f"nested {name}") == []
    seen(f"{name}: {reply.status_code}, {int(skipped)} skipped, next stored in {seconds:.1f} s")


# Entries that another program writes --------------------------------------------------------------

ODD = (None, 0, -1, 10**30, 10**400, 1e308, True, "", "x", [], {}, [[1]], {"a": {}}, "\0", "\ud800")
FIELDS = (
    *("id", "messages", "captured_at", "tenant", "chat_template_kwargs", "content_hash"),
    *("loose_hash", "temperature", "top_p", "top_k", "max_tokens", "adapter_version"),
)
ODD_MESSAGES: tuple[Any, ...] = (
    *([{}], [{"role": "user"}], [{"content": "x"}], [{"role": 1, "content": "x"}]),
    *([{"role": "user", "content": value}] for value in (None, 5, {}, [{}], [{"text": 1}], [[]])),
    *([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}],),
    *([{"role": "user", "content": "x", "tool_calls": 1}], [{"role": "\0", "content": "\ud800"}]),
    [{"role": "user", "content": "x " * 1000}],
)


def entry(**fields: Any) -> dict[str, Any]:
    question = captured(f"q_{time.monotonic_ns()}", f"poisoned {time.monotonic_ns()}")
    return {"question": json.dumps(question | fields)}


POISON: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "no question, half a JSON, another type": lambda: [
        *({"other": "x"}, {"question": "{"}, {"question": "[]"}, {"question": "{}"}),
        *({"question": "null"}, {"question": '"x"'}, {"question": ""}, {"": ""}),
    ],
    "fields that are missing": lambda: [
        {"question": json.dumps({k: v for k, v in captured("q_1", "x").items() if k != name})}
        for name in ("id", "messages", "captured_at")
    ],
    "a wrong type in every field": lambda: [
        *(entry(**{field: value}) for field in FIELDS for value in ODD),
        *(entry(messages=messages) for messages in ODD_MESSAGES),
    ],
    "binary, NUL, UTF-16": lambda: [
        *({"question": bytes(range(256))}, {"question": b"\0" * 100}, {b"\xff": b"\xff"}),
        {"question": json.dumps(captured("q_1", "x")).encode("utf-16")},
        entry(id="\0"),
    ],
    "5 MB, 100,000 digits, 100,000 nested lists, 100,000 messages": lambda: [
        entry(messages=[{"role": "user", "content": "x" * 5_000_000}]),
        entry(messages=[{"role": "user", "content": "x"}] * 100_000),
        *({"question": f'{{"id": {"9" * 100_000}}}'}, {"question": nested(100_000)}),
        entry(id="x" * 1_000_000),
        entry(tenant="x" * 1_000_000),
    ],
    "times that are no time": lambda: [
        {
            "question": json.dumps(captured("q_1", "x") | {"captured_at": "TIME"}).replace(
                '"TIME"', value
            )
        }
        for value in ("NaN", "Infinity", "-Infinity", "1e400", "-1e308", "1e308", "9" * 400)
    ],
}


def set_aside(stack: Any) -> int:
    with stack.sessions() as s:
        return ledger.dead_letters.count(s)


def num_events(stack: Any) -> int:
    with stack.sessions() as s:
        newest = ledger.events.find(s, newest_first=True, limit=1_000)
        return sum(event.type == "questions.dead_letter" for event in newest)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.attack(
                "learning",
                f"entries in the stream with {name}",
                promise="set aside or stored; none is left; the next question is stored",
            ),
        )
        for name in POISON
    ],
)
def test_poisoned_entries_are_set_aside_and_the_others_flow(
    stack: Any, honest: HonestUser, seen: Seen, name: str
) -> None:
    entries = POISON[name]()
    before = set_aside(stack)
    events_before = num_events(stack)
    for fields in entries:
        stack.stream._client.xadd(STREAM, fields)
    seconds = honest.seconds_until_stored()
    eventually(lambda: stack.stream.backlog() == 0, seconds=10)
    aside = set_aside(stack) - before
    events = num_events(stack) - events_before
    assert 0 < aside <= len(entries)
    assert events <= 2  # one a minute
    seen(f"{aside} of {len(entries)} set aside, {events} events, next stored in {seconds:.1f} s")


@pytest.mark.attack(
    "learning",
    "poisoned entries that pass the checks of the drain",
    promise="what vLLM refuses is left out of a round; the others are asked",
)
def test_stored_questions_that_cannot_be_asked_are_left_out_of_a_round(
    stack: Any, honest: HonestUser, seen: Seen
) -> None:
    for messages in ODD_MESSAGES:
        stack.stream._client.xadd(STREAM, entry(messages=messages))
    honest.seconds_until_stored()
    with stack.sessions() as s:
        rows: list[Question] = ledger.pool.next_questions(s, 200)
    settings = WorkerSettings(
        data_dir=stack.data_dir,
        base_url=stack.base_url,
        vllm_api_key=USERS_KEY,
        max_response_tokens=16,
    )
    sampler = Sampler(settings, key=stack.admin_key)
    try:
        asked = {prompt.content_hash for prompt in sampler.prompts(rows)}
    finally:
        sampler.close()
    assert {row.content_hash for row in rows if "an honest" in json.dumps(row.messages)} <= asked
    assert len(asked) < len(rows)
    seen(f"{len(asked)} of {len(rows)} drawn questions are asked, the others are left out")


def processor_seconds(process_id: int) -> float:
    """Return the processor time that a process has used."""
    times = psutil.Process(process_id).cpu_times()
    return float(times.user + times.system)


@pytest.mark.attack(
    "time and memory",
    "200 questions of 32 KB of courtesies",
    promise="they take the worker at most twice the processor time of other questions of 32 KB",
)
def test_courtesies_take_no_time(
    stack: Any, honest: HonestUser, worker_process: Any, seen: Seen
) -> None:
    def cost(starts: tuple[str, ...]) -> float:
        before = processor_seconds(worker_process.pid)
        for start in starts:
            for number in range(40):
                text = f"{start * (32_000 // len(start))} {number}"
                messages = [{"role": "user", "content": text}]
                stack.stream._client.xadd(STREAM, entry(messages=messages))
        eventually(lambda: stack.stream.backlog() == 0, seconds=90)
        return processor_seconds(worker_process.pid) - before

    usual = cost(("abc def ", "seven ", "x", "many more words ", "12 + 34 = "))
    courteous = cost(("please ", "hi there ", "could you tell me ", " thanks", "question: "))
    seen(f"{courteous * 5:.0f} ms of processor time a question, others {usual * 5:.0f} ms")
    assert courteous < 2 * usual
    assert honest.seconds_until_stored() < 30


# The stream itself --------------------------------------------------------------------------------


@pytest.mark.attack(
    "learning",
    "another program writes a text, a list or nothing over the stream, or destroys its group",
    promise="the worker makes it again; the next question is stored",
)
@pytest.mark.parametrize(
    "command",
    [
        ("SET", STREAM, "x"),
        ("LPUSH", STREAM, "x"),
        ("UNLINK", STREAM),
        ("XGROUP", "DESTROY", STREAM, "ledger"),
    ],
    ids=" ".join,
)
def test_a_stream_that_is_overwritten_is_made_again(
    stack: Any, honest: HonestUser, seen: Seen, command: tuple[str, ...]
) -> None:
    if command[0] in ("SET", "LPUSH"):
        stack.stream._client.unlink(STREAM)
    stack.stream._client.execute_command(*command)
    seconds = honest.seconds_until_stored()
    seen(f"after {command[0]} the next question was stored in {seconds:.1f} s")


@pytest.mark.attack(
    "Valkey",
    "FLUSHALL by somebody with all rights",
    promise="jobs, versions and keys stay; the next question is stored",
)
def test_a_wiped_valkey_costs_the_questions_on_their_way_only(
    stack: Any, honest: HonestUser, admin: Any, seen: Seen
) -> None:
    lists = [f"/tempo/v1/{name}" for name in ("fine_tuning/jobs", "adapters", "keys", "files")]
    before = [[row["id"] for row in admin.get(path).json()["data"]] for path in lists]
    stack.stream._client.flushall()
    seconds = honest.seconds_until_stored()
    after = [[row["id"] for row in admin.get(path).json()["data"]] for path in lists]
    assert after == before
    rows = sum(map(len, after))
    seen(f"the same {rows} rows in {len(lists)} lists, next stored in {seconds:.1f} s")
