"""The front of a running server: no dress of a path, a header or a request opens it."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from attackers import JSON, USERS_KEY, V1, chat, raw, statuses
from ports import free_port
from processes import clean_environment
from traffic import CHAT

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

TARGETS = (
    *("//v1/models", "/v1//models", "/./v1/models", "/health/../v1/models", "/health/v1/models"),
    *(
        "/tempo/../v1/models",
        "/tempo/..%2fv1/models",
        "/tempo/%2e%2e/v1/models",
        "/tempo//v1/models",
    ),
    *(
        "/V1/models",
        "/v1/models;/health",
        "/v1/models?/health",
        "/v1/models#/health",
        "/v1/models/",
    ),
    *(
        "/health;/../v1/models",
        "/v1/models/..;/health",
        "http://x/v1/models",
        "http://x/../v1/models",
    ),
    *(
        "/v1%2fmodels",
        "/%76%31/models",
        "/metrics/",
        "/metrics/../health/",
        "/openapi.json",
        "/docs",
    ),
    *(
        "/health%2f..%2fv1/models",
        "/health%00/v1/models",
        "/ping/../metrics",
        "/tempo/\\../v1/models",
    ),
    *(
        "/invocations",
        "/tokenize",
        "/load",
        "/version/../v1/models",
        "*",
        "/tempo/v1/../../v1/models",
    ),
)
HEADERS = (
    *("X-Original-URL: /health", "X-Rewrite-URL: /health", "X-Forwarded-Path: /health"),
    *("X-Forwarded-Prefix: /tempo/", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"),
    *("Forwarded: for=127.0.0.1", "X-Forwarded-Host: localhost", "X-HTTP-Method-Override: OPTIONS"),
    *(
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization: Basic c2s6",
        "Cookie: key=x",
    ),
    *("Authorization: bearer null", "Authorization: Bearer None", "X-Api-Key: " + USERS_KEY),
    *("Proxy-Authorization: Bearer " + USERS_KEY, "X-Tempo-Key: " + USERS_KEY, "Upgrade: h2c"),
)


def is_open(answer: bytes) -> bool:
    """Tell whether an answer shows anything behind the front."""
    return any(status == 200 for status in statuses(answer)) and b'"object":"list"' in answer


@pytest.mark.attack(
    "the front",
    "requests without the key, with paths and headers in every dress",
    promise="nothing behind the front is shown",
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_no_dress_of_a_path_or_header_passes_the_front(stack: Any, seen: Seen, method: str) -> None:
    found: Counter[int] = Counter()
    requests = [f"{method} {target} HTTP/1.1\r\nHost: x" for target in TARGETS]
    requests += [f"{method} /v1/models HTTP/1.1\r\nHost: x\r\n{header}" for header in HEADERS]
    for request in requests:
        answer = raw(stack, f"{request}\r\nConnection: close\r\n\r\n".encode())
        assert not is_open(answer), request
        found.update(statuses(answer))
    assert found[200] == 0, found
    seen(f"{method}: {len(requests)} requests got {dict(sorted(found.items()))}")


INNER = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
KEYED = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + USERS_KEY.encode()
SMUGGLED: dict[str, bytes] = {
    "length and chunks": b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
    "a list of lengths": b"\r\nContent-Length: 0, 40\r\n\r\n",
    "a length with a sign": b"\r\nContent-Length: +0\r\n\r\n",
    "a negative length": b"\r\nContent-Length: -1\r\n\r\n",
    "a length without a number": b"\r\nContent-Length: 0x0\r\n\r\n",
    "an unknown encoding": b"\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab in the value": b"\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "line ends of one character": b"\nTransfer-Encoding: chunked\n\n0\n\n",
    "a chunk of 2^64 bytes": b"\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
    "a header with NUL": b"\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"\r\n\r\nGET /v1/models\r\n",
}


@pytest.mark.attack(
    "the front",
    "a second request hidden behind one with the key (lengths, chunks, line ends)",
    promise="the second one has no rights of the first",
)
@pytest.mark.parametrize("name", SMUGGLED)
def test_a_hidden_request_has_no_rights_of_the_one_before_it(
    stack: Any, seen: Seen, name: str
) -> None:
    answer = raw(stack, KEYED + SMUGGLED[name] + INNER)
    found = statuses(answer)
    assert not is_open(answer)
    assert 200 not in found
    assert len(found) <= 2
    seen(f"{name}: {found}")


@pytest.mark.attack(
    "the front",
    "a request id with line ends, HTML, 10 KB or other letters",
    promise="the answer has a plain id and no other header",
)
@pytest.mark.parametrize(
    "request_id", [b"a\tb", b"<script>", b"x" * 10_000, "é٣".encode(), b"a;b=c", b"%0d%0aX-Evil: 1"]
)
def test_a_request_id_adds_no_header(stack: Any, seen: Seen, request_id: bytes) -> None:
    head = b"GET /tempo/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: "
    answer = raw(stack, head + request_id + b"\r\n\r\n")
    assert request_id not in answer
    assert b"evil" not in answer.lower()
    (status,) = statuses(answer)
    seen(f"{status}, the id is not repeated")


@pytest.mark.attack(
    "the front",
    "a priority of -2^62 in the body or a header, on each kind of route",
    promise="400",
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/invocations"])
@pytest.mark.parametrize("place", ["body", "header"])
def test_no_user_goes_before_others(stack: Any, seen: Seen, path: str, place: str) -> None:
    body = chat("first") | {"prompt": "first"}
    headers: dict[str, str] = {}
    if place == "body":
        body["priority"] = -(2**62)
    else:
        headers["X-Vllm-Priority"] = str(-(2**62))
    reply = stack.http.post(path, json=body, headers=headers)
    assert reply.status_code == 400, reply.text
    seen(f"{place}: {reply.status_code} {reply.json()['error']['param']}")


# Starts that would open it ------------------------------------------------------------------------

SERVE = [sys.executable, "-m", "tempo_client.cli", "serve"]
LAUNCHER = [sys.executable, "-m", "tempo_server.commands.vllm_serve"]


def start(command: list[str], *flags: str, **variables: str) -> tuple[int, str, int]:
    """Start a server that must end at once; return its exit code, its error and its port."""
    port = free_port()
    done = subprocess.run(
        [*command, "org/model", "--port", str(port), *flags],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.strip(), port


def is_bound(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.attack(
    "the front",
    "a start on a public address without a key",
    promise="it is refused in one line, and nothing listens",
)
@pytest.mark.parametrize(
    ("command", "flag"), [(SERVE, "--host=0.0.0.0"), (SERVE, "--host="), (LAUNCHER, "--host=::")]
)
def test_a_public_start_without_a_key_is_refused(
    tmp_path: Path, seen: Seen, command: list[str], flag: str
) -> None:
    code, error, port = start(command, flag, TEMPO_DATA_DIR=str(tmp_path))
    assert (code > 0, is_bound(port)) == (True, False)
    assert "without a key" in error
    assert "\n" not in error
    seen(f"{flag}: exit {code}, bound: {is_bound(port)}")


@pytest.mark.attack(
    "the front",
    "an empty users' key, in a flag or a file",
    promise="the start is refused, and nothing listens",
)
@pytest.mark.parametrize("way", ["flag", "file"])
def test_an_empty_key_is_refused(tmp_path: Path, seen: Seen, way: str) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "tempo_vllm_api_key").write_text("\n")
    variables = {"TEMPO_DATA_DIR": str(tmp_path / "data")}
    if way == "file":
        variables["TEMPO_SETTINGS_DIR"] = str(settings)
    flags = ["--host=0.0.0.0", *(["--api-key", ""] if way == "flag" else [])]
    code, error, port = start(SERVE, *flags, **variables)
    assert (code, is_bound(port)) == (1, False)
    seen(f"{way}: exit {code}, bound: {is_bound(port)}")
    assert "is empty" in error


@pytest.mark.attack(
    "the front",
    "HTTP_PROXY and friends of the operator's shell, at a running server",
    promise="the proxy sees no key and no request",
)
def test_a_proxy_of_the_environment_sees_no_key(stack: Any, seen: Seen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(1)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY")
        env = stack.environment | dict.fromkeys(names, url) | {"TEMPO_BASE_URL": stack.base_url}
        command = [sys.executable, "-m", "tempo_client.cli", "status", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert done.returncode == 0, done.stderr
    seen(f"`tempo status`: exit {done.returncode}, no connection to the proxy")


@pytest.mark.attack(
    "the front",
    "the users' key at the admin API, an admin key at vLLM's routes",
    promise="401",
)
def test_neither_key_opens_the_other_door(stack: Any, seen: Seen) -> None:
    admin = {"Authorization": f"Bearer {stack.admin_key}"}
    users = {"Authorization": f"Bearer {USERS_KEY}"}
    found = {
        "users' key": httpx.get(f"{stack.base_url}{V1}/status", headers=users).status_code,
        "admin key": httpx.get(f"{stack.base_url}/v1/models", headers=admin).status_code,
        "no JSON": httpx.post(f"{stack.base_url}{CHAT}", headers=JSON).status_code,
    }
    assert set(found.values()) == {401}
    assert os.environ.get("VLLM_API_KEY") is None
    seen(found)
