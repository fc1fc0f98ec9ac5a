"""Proxies of the environment see no key, and nothing of what goes to this machine."""

import ast
import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tempo_client import AsyncTempo, Tempo
from tempo_client._credentials import trusts_environment
from tempo_client.cli import output
from tempo_server.commands import doctor
from tempo_server.settings import DoctorSettings
from tempo_trainer.sampling.sampler import Sampler
from tempo_trainer.sampling.server import served_model
from tempo_trainer.worker_settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPONENTS = ("server", "trainer", "storage", "clients")
KEY = "tk_secret"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
REMOTE = "http://tempo.invalid:8000"
REQUESTS = {"get", "post", "put", "delete", "request", "stream", "Client", "AsyncClient"}


class Recorder(BaseHTTPRequestHandler):
    """Answers every request with an empty object, and notes its first line."""

    def do_GET(self) -> None:
        self.server.lines.append(self.requestline)  # type: ignore[attr-defined]
        body = b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_CONNECT = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def listener() -> Iterator[Callable[[], tuple[str, list[str]]]]:
    """Return a function that starts an HTTP server and returns its URL and what it receives."""
    servers: list[ThreadingHTTPServer] = []

    def listen() -> tuple[str, list[str]]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        server.lines = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server.lines  # type: ignore[attr-defined]

    yield listen
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(
    listener: Callable[[], tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Name a proxy in every variable of the environment; return the requests that it sees."""
    url, lines = listener()
    for name in PROXIES:
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.lower(), url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return lines


def settings(url: str, **fields: Any) -> WorkerSettings:
    return WorkerSettings(base_url=url, api_key=KEY, patience_seconds=1, **fields)


def by_sdk(url: str) -> None:
    with Tempo(url, api_key=KEY, max_retries=0) as tempo:
        tempo.status()


def by_async_sdk(url: str) -> None:
    async def ask() -> None:
        async with AsyncTempo(url, api_key=KEY, max_retries=0) as tempo:
            await tempo.status()

    asyncio.run(ask())


def by_openai(url: str) -> None:
    with Tempo(url, api_key=KEY) as tempo, tempo.openai(api_key=KEY, max_retries=0) as client:
        client.models.list()


def by_sampler(url: str) -> None:
    sampler = Sampler(settings(url), key=KEY)
    sampler._client.get("/metrics")
    sampler.close()


def by_doctor(url: str) -> None:
    for check in doctor.check_running(DoctorSettings(base_url=url, api_key=KEY)):
        assert isinstance(check, doctor.Check)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "SDK": by_sdk,
    "asynchronous SDK": by_async_sdk,
    "OpenAI's client": by_openai,
    "command": output._answers,
    "sampler": by_sampler,
    "worker": lambda url: served_model(settings(url), KEY),
    "doctor": by_doctor,
}


def try_to(ask: Callable[[str], Any], url: str) -> None:
    """Send a request; its answer is not one that the client expects, or none comes."""
    with suppress(Exception):
        ask(url)


@pytest.mark.parametrize("trust_env", ["", "1"])
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.attack(
    "the front",
    "proxies in every variable of the environment, with a server on this machine",
    promise="no proxy sees a request of any client",
)
def test_no_proxy_sees_a_request_to_this_machine(
    name: str,
    trust_env: str,
    proxy: list[str],
    listener: Callable[[], tuple[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    seen: Callable[[object], None],
) -> None:
    if trust_env:
        monkeypatch.setenv("TEMPO_TRUST_ENV", trust_env)
    url, requests = listener()
    try_to(CLIENTS[name], url)
    assert requests
    assert proxy == []
    seen(f"{name}: {len(requests)} requests, {len(proxy)} through the proxy")


@pytest.mark.parametrize("name", CLIENTS)
def test_a_proxy_sees_a_request_to_another_machine_only_by_the_setting(
    name: str, proxy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try_to(CLIENTS[name], REMOTE)
    assert proxy == []
    monkeypatch.setenv("TEMPO_TRUST_ENV", "true")
    try_to(CLIENTS[name], REMOTE)
    assert proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3", "0.0.0.0"])
def test_an_address_of_this_machine_never_trusts_the_environment(host: str) -> None:
    assert not trusts_environment(f"http://{host}:8000", allowed=True)


def httpx_calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of the product that makes a client of httpx, or a request without one."""
    for component in COMPONENTS:
        for path in (ROOT / component).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                module, _, function = name.rpartition(".")
                is_request = module.startswith("httpx") and function in REQUESTS
                if is_request or function in ("_http_type", "DefaultHttpxClient"):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_client_says_whether_it_trusts_the_environment() -> None:
    calls = dict(httpx_calls())
    assert len(calls) >= 6
    silent = [
        place
        for place, call in calls.items()
        if "trust_env" not in {keyword.arg for keyword in call.keywords}
    ]
    assert silent == []
