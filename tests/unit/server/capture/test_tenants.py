"""A tenant is what a key or a trusted proxy proves, never what a client claims."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from ledgers import captured, sqlite_ledger, user
from pydantic import ValidationError
from starlette.datastructures import Headers

from tempo_server.capture import question
from tempo_server.capture.capture import Capture
from tempo_server.capture.rate_limit import MAX_TENANTS, RateLimit
from tempo_server.capture.spool import Spool
from tempo_server.capture.tenants import Tenants
from tempo_server.settings import ServerSettings
from tempo_storage import ledger

PROXIES = "10.0.0.0/8, 2001:db8::1"


def tenants(**settings: Any) -> Tenants:
    return Tenants.of(ServerSettings(**settings), ["right", "other"])


def id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


KEY = {"authorization": "Bearer right"}


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        (KEY, id_of("Bearer right")),
        ({"authorization": "bEaReR right"}, id_of("Bearer right")),  # vLLM takes it, too
        ({"x-api-key": "other"}, id_of("Bearer other")),
        ({"authorization": "Bearer invented"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"authorization": "right"}, ""),
        ({}, ""),
    ],
)
def test_only_a_key_that_vllm_checks_makes_a_tenant(headers: dict[str, str], tenant: str) -> None:
    assert tenants().name(Headers(headers), "10.1.1.1") == tenant
    assert Tenants().name(Headers(headers), "10.1.1.1") == ""  # vLLM checks no key


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("10.255.0.1", True),
        ("::ffff:10.0.0.1", True),  # the same proxy on a socket of IPv6
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("11.0.0.1", False),
        ("127.0.0.1", False),
        ("", False),
        ("10.0.0.1.evil", False),
    ],
)
def test_the_header_is_believed_from_trusted_proxies_only(peer: str, believed: bool) -> None:
    named = tenants(tenant_header="X-User", trusted_proxies=PROXIES)
    header = Headers({"x-user": "ann"} | KEY)
    assert named.name(header, peer) == (id_of("ann") if believed else id_of("Bearer right"))


def test_the_value_that_the_proxy_adds_counts_and_not_the_one_that_a_client_sent() -> None:
    named = tenants(tenant_header="X-User", trusted_proxies=PROXIES)
    headers = Headers(raw=[(b"x-user", b"claimed"), (b"x-user", b" ann ")])
    assert named.name(headers, "10.0.0.1") == id_of("ann")
    assert named.name(Headers({"x-user": " "}), "10.0.0.1") == ""


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.7", "", "192.0.2.7"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),  # claimed by a client
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("2001:db8:5:6:7::8", "", "2001:db8:5:6::/64"),
    ],
)
def test_an_address_is_that_of_the_client_behind_trusted_proxies(
    peer: str, forwarded: str, address: str
) -> None:
    named = tenants(tenant_by_address=True, trusted_proxies=PROXIES)
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})
    assert named.name(headers, peer) == id_of(address)
    assert named.name(Headers(KEY), peer) == id_of("Bearer right")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"trusted_proxies": "10.0.0.300"}, "give addresses or networks"),
        ({"trusted_proxies": "10.0.0.1/8"}, "has host bits set"),
        ({"tenant_header": "X-User"}, "name the proxies"),
        ({"tenant_header": "X User", "trusted_proxies": "10.0.0.1"}, "pattern"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ServerSettings(**settings)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an app by uvicorn on a port of its own, with uvicorn's defaults as vLLM has them."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_no_client_on_this_machine_invents_addresses_or_proxies(
    trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1")  # uvicorn's own default
    settings = ServerSettings(tenant_by_address=True, trusted_proxies=trusted)
    settings.use_peer_addresses()
    named = Tenants.of(settings, [])
    app = FastAPI()

    @app.get("/")
    def name(request: Request) -> str:
        assert request.client is not None
        return named.name(request.headers, request.client.host)

    with served(app) as url:
        claims = [f"203.0.113.{n}" for n in range(5)]
        names = {httpx.get(url, headers={"X-Forwarded-For": one}).json() for one in claims}
    assert len(names) == (5 if trusted else 1)


def test_a_tenant_keeps_so_many_questions_a_minute_and_the_others_all() -> None:
    now = [0.0]
    limit = RateLimit(60, clock=lambda: now[0])
    assert [limit.takes("ann") for _ in range(61)] == [True] * 60 + [False]
    assert limit.takes("ben")
    now[0] += 2.0
    assert [limit.takes("ann") for _ in range(3)] == [True, True, False]
    now[0] += 3600.0
    assert [limit.takes("ann") for _ in range(61)] == [True] * 60 + [False]
    assert all(RateLimit(0).takes("ann") for _ in range(1000))


def test_the_rate_limit_remembers_a_bounded_number_of_tenants() -> None:
    limit = RateLimit(1)
    for number in range(MAX_TENANTS + 10):
        limit.takes(str(number))
    assert len(limit._buckets) == MAX_TENANTS


def test_420_questions_under_50_invented_keys_displace_no_question(tmp_path: Path) -> None:
    settings = ServerSettings(data_dir=tmp_path)
    spool = Spool(tmp_path / "spool", limit_bytes=1 << 20)
    capture = Capture(settings, spool, Tenants.of(settings, ["right", "other"]), RateLimit(400))

    def ask(key: str, text: str) -> None:
        request = SimpleNamespace(messages=user(text))
        headers = Headers({"authorization": f"Bearer {key}"})
        capture.keep(request, question.from_chat, headers=headers, is_opted_out=False)

    for number in range(420):
        ask(f"invented-{number % 50}", f"flood {number}")
    assert (spool.counters.captured, spool.counters.over_limit) == (400, 20)
    flood = [record for path in spool.directory.glob("*.active") for record in _records(path)]
    honest = [
        captured(f"{tenant} {n}", f"{tenant} {n}", tenant=tenant)
        for tenant in ("ann", "ben", "cem")
        for n in range(20)
    ]
    with sqlite_ledger(tmp_path) as sessions, sessions.begin() as s:
        ledger.pool.add(s, honest, keep=60)
        for start in range(0, 400, 80):
            ledger.pool.add(s, flood[start : start + 80], keep=60)
        assert ledger.tenants.held(s) == {"": 15, "ann": 15, "ben": 15, "cem": 15}


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
