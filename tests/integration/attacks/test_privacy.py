"""A running server and its worker keep questions to themselves, and forget them when they must."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from attackers import JSON, SILENT, V1, HonestUser, chat, counted, stored
from canaries import canary, files_with
from ledgers import captured
from traffic import CHAT
from waiting import eventually

from tempo_server.capture.tenants import id_of
from tempo_storage import private
from tempo_storage.valkey.streams import STREAM

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]


def with_store(*stores: str) -> str:
    """Return the form of a body that has these texts as its values of `store`."""
    return "".join(f', "store": {store}' for store in stores)


# The end of a JSON body, and headers.
OPT_OUTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "store: 0.0": (with_store("0.0"), []),
    "store: -0": (with_store("-0"), []),
    'store: "no"': (with_store('"no"'), []),
    "store false, then true": (with_store("false", "true"), []),
    "store true, then false": (with_store("true", "false"), []),
    "store false, then st\\u006fre true": (with_store("false") + ', "st\\u006fre": true', []),
    "st\\u006fre false, then store true": (', "st\\u006fre": false' + with_store("true"), []),
    "header 1": ("", [("X-Tempo-Opt-Out", "1")]),
    "header 0 and 1": ("", [("X-Tempo-Opt-Out", "0"), ("X-Tempo-Opt-Out", "1")]),
    "header 1 and 0": ("", [("x-tempo-opt-out", "1"), ("X-TEMPO-OPT-OUT", "0")]),
    "header 0, store false": (with_store("false"), [("X-Tempo-Opt-Out", "0")]),
    "header 1, store true": (with_store("true"), [("X-Tempo-Opt-Out", "1")]),
    "header without a value": ("", [("X-Tempo-Opt-Out", "")]),
}


@pytest.mark.attack(
    "privacy",
    "opt-outs that contradict each other, in every dress of JSON and headers",
    promise="the no counts: no file ever holds the question",
)
@pytest.mark.parametrize("name", OPT_OUTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_of_two_opt_outs_the_no_counts(
    stack: Any, honest: HonestUser, seen: Seen, name: str, encoding: str
) -> None:
    text = canary(f"out{list(OPT_OUTS).index(name)}{encoding}")
    end, headers = OPT_OUTS[name]
    body = json.dumps(chat(text))[:-1] + end + "}"
    before = counted(stack, "opted_out")
    headers = [*JSON.items(), *headers]
    reply = stack.http.post(CHAT, content=body.encode(encoding), headers=headers)
    assert reply.status_code in (200, 400), reply.text
    out = reply.status_code == 200
    honest.seconds_until_stored()
    found = files_with(text, stack.data_dir)
    eventually(lambda: counted(stack, "opted_out") == before + out, seconds=10)
    assert found == []
    seen(f"{name}: {reply.status_code}, in {len(found)} files")


@pytest.mark.attack(
    "privacy",
    "a tenant that the operator opted out, and one that asks right after it",
    promise="no file holds the first one's question",
)
def test_a_tenant_that_was_opted_out_leaves_no_trace(
    stack: Any, honest: HonestUser, seen: Seen
) -> None:
    silent = HonestUser(stack, SILENT)
    silent.ask(canary("silent"), store=True)
    silent.close()
    honest.seconds_until_stored()
    found = files_with(canary("silent"), stack.data_dir)
    assert found == []
    seen(f"in {len(found)} files")


PERSONAL = {
    "an e-mail address": "ann.canary4711@example.org",
    "a key": "sk-canary4711canary4711canary4711",
    "a card": "4111 1111 1111 1111",
    "a phone number": "+49 30 4711 0815 99",
}


@pytest.mark.attack(
    "privacy",
    "personal data in a question: e-mail address, key, card, phone number",
    promise="no file ever holds it; the rest of the question is kept",
)
@pytest.mark.parametrize("kind", PERSONAL)
def test_what_is_redacted_is_in_no_file(
    stack: Any, honest: HonestUser, seen: Seen, kind: str
) -> None:
    honest.ask(f"write to {PERSONAL[kind]} about {kind}")
    honest.seconds_until_stored()
    found = files_with(PERSONAL[kind], stack.data_dir)
    assert found == []
    assert stored(stack, f"about {kind}")
    seen(f"{kind}: in {len(found)} files, the question is stored without it")


LOGS = ("vllm.log", "worker.log", "valkey.log")


@pytest.mark.attack(
    "privacy",
    "questions in requests that fail: refused, cut, of wrong types, to every kind of route",
    promise="no log, event or job has their text",
)
def test_no_log_or_event_has_the_text_of_a_question_that_fails(
    stack: Any, honest: HonestUser, admin: httpx.Client, seen: Seen
) -> None:
    text = canary("failing")
    bodies: list[Any] = [
        chat(f"{text} " * 1_000),
        chat(text, model="no-such-model"),
        chat(text, temperature=text),
        chat(text, chat_template_kwargs={"a": text * 500}),
        {"messages": text},
        {"messages": [{"role": text, "content": text}]},
        {"messages": [{"role": "user", "content": [{"type": text, "text": text}]}]},
        text,
    ]
    codes = []
    for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"):
        for body in bodies:
            content = json.dumps(body).encode()
            for sent in (content, content[:-2]):
                codes.append(stack.http.post(path, content=sent, headers=JSON).status_code)
    for body in ({"question": [text]}, {"question": text * 5_000}, [text]):
        codes.append(admin.post(f"{V1}/questions/learned", json=body).status_code)
    for fields in ({"messages": text}, {"captured_at": text}, {"id": [text]}, {"tenant": text}):
        question = captured("q_x", text) | fields
        stack.stream._client.xadd(STREAM, {"question": json.dumps(question)})
    honest.seconds_until_stored()
    holders = [name for name in LOGS if text in (stack.data_dir / name).read_text(errors="replace")]
    shown = [admin.get(f"{V1}/{path}").text for path in ("status", "audit", "fine_tuning/jobs")]
    seen(f"{len(codes)} requests and 4 entries: {len(holders)} of {len(LOGS)} logs hold the text")
    assert not any(text in page for page in shown)
    assert holders == []
    assert max(codes) < 500


@pytest.mark.attack(
    "privacy",
    "a tenant is erased while its questions are on every place of their way",
    promise="no file of the data directory has a byte of them; the others stay",
)
def test_after_an_erasure_no_file_has_a_byte(
    stack: Any, honest: HonestUser, admin: httpx.Client, seen: Seen
) -> None:
    text = canary("erased")
    eve = HonestUser(stack, "eve")
    for number in range(20):
        eve.ask(f"{text} {number}")
    broken = captured("q_eve", text, tenant=id_of("eve")) | {"messages": [text]}
    stack.stream.append([broken])
    eventually(lambda: stored(stack, text), seconds=10)
    eve.ask(f"{text} at the last moment")
    eve.close()
    before = files_with(text, stack.data_dir)
    reply = admin.delete(f"{V1}/questions", params={"tenant": id_of("eve")}).json()
    honest.seconds_until_stored()
    eventually(lambda: files_with(text, stack.data_dir) == [], seconds=20)
    after = files_with(text, stack.data_dir)
    assert before
    assert (reply["remains"], after) == ([], [])
    seen(f"{reply['erased']} erased; {len(before)} files before, {len(after)} after")


@pytest.mark.attack(
    "privacy",
    "another user of the machine reads files, sockets and directories",
    promise="none of them gives others any right",
)
def test_no_file_of_the_running_deployment_is_open_to_others(
    stack: Any, seen: Seen, tmp_path: Path
) -> None:
    paths = list(stack.data_dir.rglob("*"))
    exposed = private.exposed(stack.data_dir)
    sockets = [p for p in [*paths, stack.valkey.socket] if stat.S_ISSOCK(p.lstat().st_mode)]
    assert exposed == []
    assert sockets
    assert [path for path in sockets if path.lstat().st_mode & 0o077] == []
    seen(f"{len(exposed)} of {len(paths)} paths, {len(sockets)} socket among them")


@pytest.mark.attack(
    "privacy",
    "links in the data directory to files outside of it",
    promise="a start changes nothing outside",
)
def test_a_start_follows_no_link_out_of_the_data_directory(tmp_path: Path, seen: Seen) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    os.chmod(outside / "file", 0o644)
    os.chmod(outside, 0o755)
    data = tmp_path / "data"
    for folder in ("spool", "adapters", "files", "checkpoints"):
        (data / folder).mkdir(parents=True)
        (data / folder / "link").symlink_to(outside / "file")
        (data / folder / "folder").symlink_to(outside)
    (data / "valkey.lock").symlink_to(outside / "file")
    umask = os.umask(0o022)
    try:
        private.create_private(data)
    finally:
        os.umask(umask)
    modes = [oct(path.stat().st_mode & 0o777) for path in (outside, outside / "file")]
    assert modes == ["0o755", "0o644"]
    seen(f"the rights outside stay {modes}")
