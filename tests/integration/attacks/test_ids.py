"""Numbers, names and ids that no request should have get a plain refusal from a running server."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from attackers import JOBS, JSON, V1, chat, raw, statuses
from traffic import CHAT

from tempo_server.admin.route_table import scope_of_routes
from tempo_storage import ledger

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

STEPS = (str(10**400), "-1", "0", "1e400", "NaN", "1.5", "true", '"1"', "[]", "{}", str(2**63))


@pytest.mark.attack(
    "numbers and ids", "a job of 10^400, -1, 1e400, NaN or true steps", promise="400, and no job"
)
@pytest.mark.parametrize("steps", STEPS, ids=lambda text: text[:8])
def test_a_number_of_steps_that_is_none_is_refused(
    admin: httpx.Client, seen: Seen, steps: str
) -> None:
    before = admin.get(JOBS).json()["data"]
    body = f'{{"tempo": {{"max_steps": {steps}}}}}'
    reply = admin.post(JOBS, content=body.encode(), headers=JSON)
    assert (reply.status_code, admin.get(JOBS).json()["data"]) == (400, before), reply.text
    seen(reply.status_code)


NAMES = (
    *("tempo-v01", "tempo-v٣", "TEMPO-V1", "tempo-v1 ", "tempo-v-1", "tempo-v+1", "tempo-v1e0"),
    *("tempo-v" + "9" * 400, "tempo-v1.0", "tempo-v0x1", "tempo-v", "tempo-v1~x", "tempo-v1\0"),
    *("../tempo-v1", "tempo-v1/../tempo-v1", "tempo-v1%00", "tempo-t1", "tempo-v１"),
)


@pytest.mark.attack(
    "numbers and ids",
    "names of versions in other dresses: tempo-v01, other digits, signs, paths, NUL",
    promise="400 or 404 at every route and from the model's field; no 5xx",
)
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_version_has_one_name(stack: Any, admin: httpx.Client, seen: Seen, name: str) -> None:
    path = f"{V1}/adapters/{quote(name, safe='')}"
    codes = [admin.get(path).status_code, admin.post(f"{path}/promote", json={}).status_code]
    codes.append(admin.request("DELETE", f"{V1}/models/{quote(name, safe='')}").status_code)
    headers = {"X-Tempo-Key": stack.admin_key}
    reply = stack.http.post(CHAT, json=chat("x") | {"model": name}, headers=headers)
    codes.append(reply.status_code)
    assert set(codes) <= {400, 404, 405}, codes
    seen(dict(Counter(codes)))


TRAVERSALS = (
    *("..", "../admin.key", "..%2fadmin.key", "%2e%2e%2fadmin.key", "..%5cadmin.key"),
    *("%2e%2e/%2e%2e/admin.key", "....//admin.key", "..%252fadmin.key", "/etc/passwd"),
    *(
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
        "..%c0%afadmin.key",
        "%00../admin.key",
        "~/admin.key",
    ),
    *("..;/admin.key", "%ff%fe", "*", "'%20OR%201=1--", "file-%00"),
)
WITH_ID = [(method, path) for method, path in scope_of_routes() if "{" in path]


@pytest.mark.attack(
    "numbers and ids",
    "paths out of the directory in every id of every route",
    promise="400, 404 or 405; nothing of a file is shown",
)
def test_no_id_leads_out_of_its_directory(stack: Any, admin: httpx.Client, seen: Seen) -> None:
    codes: Counter[int] = Counter()
    key = f"Authorization: Bearer {stack.admin_key}"
    for method, path in WITH_ID:
        for text in TRAVERSALS:
            filled = "/".join(text if part.startswith("{") else part for part in path.split("/"))
            request = f"{method} {filled} HTTP/1.1\r\nHost: x\r\n{key}\r\nConnection: close\r\n\r\n"
            answer = raw(stack, request.encode())
            assert answer, request
            assert stack.admin_key.encode() not in answer
            assert b"root:" not in answer
            codes.update(statuses(answer))
    seen(f"{sum(codes.values())} requests: {dict(sorted(codes.items()))}")
    assert codes.keys() <= {400, 404, 405, 307}


FILE_NAMES = (
    "../../../../evil",
    "/etc/evil",
    "a\\..\\evil",
    "evil\x1b[31m",
    "x" * 5_000,
    "..",
    "é٣",
)


@pytest.mark.attack(
    "numbers and ids",
    "files whose names lead elsewhere or have control characters",
    promise="each is stored under its id; nothing is written elsewhere",
)
@pytest.mark.parametrize("name", FILE_NAMES, ids=lambda name: ascii(name)[:20])
def test_the_name_of_an_upload_names_no_place(
    stack: Any, admin: httpx.Client, seen: Seen, name: str
) -> None:
    lines = [
        json.dumps({"question": f"{ascii(name)[:30]} {n}?", "answer": str(n), "verifier": "exact"})
        for n in range(8)
    ]
    reply = admin.post(f"{V1}/files", files={"file": (name, "\n".join(lines).encode())})
    if len(name) > 1_000:  # a header of this length is no part of a form
        assert reply.status_code == 400, reply.text
        seen(f"{len(name)} characters: {reply.status_code}")
        return
    assert reply.status_code == 200, reply.text
    file_id = reply.json()["id"]
    names = {path.name for path in (stack.data_dir / "files").iterdir()}
    elsewhere = [path for path in stack.data_dir.parent.rglob("*evil*")]
    assert (file_id in names, elsewhere) == (True, [])
    content = admin.get(f"{V1}/files/{file_id}/content?held_out=true")
    assert content.text.splitlines() == lines
    assert admin.delete(f"{V1}/files/{file_id}").status_code == 200
    seen(f"{reply.status_code}, one file under its id, {len(elsewhere)} elsewhere")


@pytest.mark.attack(
    "numbers and ids",
    "an erasure of a pattern, a path or SQL instead of a tenant",
    promise="400, and no question is gone",
)
@pytest.mark.parametrize("tenant", ["%", "*", "_" * 16, "../", "' OR 1=1 --", "a" * 15, "\0", "[]"])
def test_a_pattern_erases_nothing(stack: Any, admin: httpx.Client, seen: Seen, tenant: str) -> None:
    with stack.sessions() as s:
        before = ledger.pool.count(s)
    reply = admin.delete(f"{V1}/questions", params={"tenant": tenant})
    with stack.sessions() as s:
        after = ledger.pool.count(s)
    assert (reply.status_code, after) == (400, before)
    seen(f"{reply.status_code}, as many rows as before")


@pytest.mark.attack(
    "numbers and ids",
    "unknown paths and wrong methods, of vLLM's routes and ours",
    promise="404 and 405 in OpenAI's form, 405 with the methods",
)
def test_unknown_paths_and_methods_have_one_form(
    stack: Any, admin: httpx.Client, seen: Seen
) -> None:
    found: Counter[int] = Counter()
    clients = [(stack.http, ("/nothing", "/v1/nothing", CHAT, "/health"))]
    clients.append((admin, ("/tempo/nothing", f"{V1}/nothing", f"{V1}/status", JOBS)))
    for client, paths in clients:
        for path in paths:
            for method in ("PUT", "PATCH", "DELETE"):
                reply = client.request(method, path)
                error = reply.json()["error"]
                assert error.keys() >= {"message", "type", "param", "code"}, (method, path)
                assert ("allow" in reply.headers) is (reply.status_code == 405)
                found[reply.status_code] += 1
    seen(dict(found))
    assert found.keys() == {404, 405}
