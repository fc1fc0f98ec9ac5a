"""One clear or unclear "no" keeps a question out, also where something else says yes."""

import asyncio
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from starlette.datastructures import Headers

from tempo_server.capture import question
from tempo_server.capture.capture import Capture
from tempo_server.capture.opt_out import is_opted_out
from tempo_server.capture.spool import Spool
from tempo_server.capture.tenants import Tenants, id_of
from tempo_server.settings import ServerSettings
from tempo_storage.errors import SettingsError
from tempo_storage.settings import checked

KEY = "sk-user-1"
KEY_ID = hashlib.sha256(f"Bearer {KEY}".encode()).hexdigest()[:16]


def is_out(
    body: Any = b"{}", headers: list[tuple[str, str]] | None = None, *, keys: str = ""
) -> bool:
    """Tell whether a request with this body and these headers is opted out."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    raw = [(name.lower().encode(), value.encode()) for name, value in headers or []]
    request = Request({"type": "http", "headers": raw}, receive)
    return asyncio.run(is_opted_out(request, ServerSettings(opt_out_keys=keys).opt_out_ids))


HEADER = "X-Tempo-Opt-Out"


@pytest.mark.parametrize(
    "values", [["1"], ["true"], [""], ["yes"], ["0", "1"], ["1", "0"], ["0, 1"]]
)
def test_any_value_of_the_header_but_0_is_out(values: list[str]) -> None:
    assert is_out(headers=[(HEADER, value) for value in values])


@pytest.mark.parametrize("values", [[], ["0"], ["0", "0"], [" 0 "]])
def test_without_the_header_or_with_0_a_question_is_kept(values: list[str]) -> None:
    assert not is_out(headers=[(HEADER, value) for value in values])


@pytest.mark.parametrize(
    "store", [False, 0, 0.0, -0.0, "false", "False", "f", "0", "off", "no", "n", "", "?", [], {}, 2]
)
def test_a_store_that_is_no_clear_yes_is_out(store: Any) -> None:
    assert is_out({"store": store})
    assert is_out({"store": store}, [(HEADER, "0")])


@pytest.mark.parametrize("store", [True, None, 1, 1.0, "true", "TRUE", "yes", "on"])
def test_a_store_that_is_a_yes_or_says_nothing_is_kept(store: Any) -> None:
    assert not is_out({"store": store})
    assert is_out({"store": store}, [(HEADER, "1")])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"store": false, "store": true}', True),
        (b'{"store": true, "x": {"store": 1}, "store": 0e0}', True),
        (b'{"store": false, "st\\u006fre": true}', True),
        ('{"store": false, "store": true}'.encode("utf-16"), True),
        ('{"store": true}'.encode("utf-16"), False),
        (b'{"store": true, "metadata": {"store": false}}', False),
        (b'{"messages": [{"content": "\\"store\\": false"}], "store": true}', False),
        (b"{", True),
        (b"[]", False),
    ],
)
def test_a_store_that_stands_twice_is_out_if_one_of_them_is(body: bytes, expected: bool) -> None:
    assert is_out(body) is expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Bearer {KEY}")],
        [("Authorization", f"bearer {KEY}")],
        [("X-Api-Key", KEY)],
        [("Authorization", "Bearer another"), ("X-Api-Key", KEY)],
        [("Authorization", "Bearer another"), ("Authorization", f"Bearer {KEY}")],
    ],
)
def test_a_key_that_the_operator_opted_out_is_out_however_it_is_sent(headers: Any) -> None:
    assert id_of(f"Bearer {KEY}") == KEY_ID
    assert is_out({"store": True}, headers, keys=f"{'0' * 16}, {KEY_ID.upper()}")
    assert not is_out(headers=headers)


def test_another_key_is_kept() -> None:
    assert not is_out(headers=[("Authorization", "Bearer other")], keys=KEY_ID)


@pytest.mark.parametrize(
    ("user", "peer", "is_kept"),
    [("ann", "10.0.0.1", False), ("bob", "10.0.0.1", True), ("ann", "192.0.2.1", True)],
)
def test_a_tenant_that_the_operator_opted_out_is_out_if_a_trusted_proxy_names_it(
    user: str, peer: str, is_kept: bool, tmp_path: Path
) -> None:
    settings = ServerSettings(
        data_dir=tmp_path,
        opt_out_keys=id_of("ann"),
        tenant_header="X-User",
        trusted_proxies="10.0.0.0/8",
    )
    spool = Spool(tmp_path, limit_bytes=1 << 20)
    capture = Capture(settings, spool, Tenants.of(settings, ()))
    request = SimpleNamespace(messages=[{"role": "user", "content": "1 + 1"}])
    headers = Headers({"X-User": user})
    capture.keep(request, question.from_chat, headers=headers, is_opted_out=False, peer=peer)
    assert (spool.counters.captured, spool.counters.opted_out) == (is_kept, not is_kept)


@pytest.mark.parametrize("value", [KEY, "a" * 64, f"{KEY_ID} {KEY_ID}"])
def test_a_setting_that_is_no_list_of_ids_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPO_OPT_OUT_KEYS", value)
    with pytest.raises(SettingsError, match="give ids of 16 hex digits"):
        checked(ServerSettings)
