"""Keys of a running server: each opens what its scopes say, as long as it lives."""

import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attackers import JOBS, USERS_KEY, V1, chat
from sqlalchemy import update
from traffic import CHAT
from waiting import eventually

from tempo_server.admin.route_table import scope_of_routes
from tempo_server.keys import SCOPES
from tempo_storage.ledger.models import AuditRecord, Key

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]

ROUTES = {route: scope for route, scope in scope_of_routes().items() if scope}
LABELS = [
    {"question": f"How much is {n} + {n}?", "answer": str(2 * n), "verifier": "exact"}
    for n in range(1000, 1100)
]


def new_key(admin: httpx.Client, *scopes: str, **fields: Any) -> dict[str, Any]:
    """Make a key with scopes; return it with its id and its secret."""
    body = {"name": f"attack-{secrets.token_hex(4)}", "scopes": scopes, **fields}
    reply = admin.post(f"{V1}/keys", json=body)
    assert reply.status_code == 200, reply.text
    made: dict[str, Any] = reply.json()
    return made


def ask(admin: httpx.Client, method: str, path: str, secret: str, **options: Any) -> httpx.Response:
    """Send a request with another key."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {"Authorization": ""}
    return admin.request(method, path, headers=headers, **options)


def filled(path: str) -> str:
    return path.replace("{adapter_id}", "tempo-v1").replace("{model}", "tempo-v1")


@pytest.mark.attack(
    "keys",
    "each kind of key at each route whose scope it lacks",
    promise="403 that names the scope; 401 without a key, with a user's, or an invented one",
)
@pytest.mark.parametrize("kind", ["none", "user's", "invented", *SCOPES])
def test_no_key_opens_a_route_whose_scope_it_lacks(
    admin: httpx.Client, seen: Seen, kind: str
) -> None:
    secret = {"none": "", "user's": USERS_KEY, "invented": "tk_" + "x" * 43}.get(kind)
    expected = 403 if secret is None else 401
    if secret is None:
        secret = new_key(admin, kind)["key"]
    routes = [route for route, scope in ROUTES.items() if scope != kind]
    codes: Counter[int] = Counter()
    for method, path in routes:
        reply = ask(admin, method, filled(path), secret)
        codes[reply.status_code] += 1
        if expected == 403:
            assert f"scope {ROUTES[method, path]!r}" in reply.json()["error"]["message"]
    assert codes == {expected: len(routes)}
    seen(f"{kind}: {codes[expected]} of {len(routes)} routes answered {expected}")


@pytest.fixture(scope="module")
def file_id(admin: httpx.Client, stack: Any) -> str:
    """A file with labels, half of which are held out."""
    with stack.admin() as tempo:
        return str(tempo.files.create(LABELS).id)


@pytest.mark.attack(
    "keys",
    "a key that reads figures looks for texts of labels and questions",
    promise="403, and nothing that it may read has one",
)
def test_a_key_that_reads_figures_sees_no_text(
    admin: httpx.Client, file_id: str, seen: Seen
) -> None:
    secret = new_key(admin, "read")["key"]
    refused = [f"{V1}/files/{file_id}/content?held_out=true", f"{V1}/labels", f"{V1}/files"]
    assert [ask(admin, "GET", path, secret).status_code for path in refused] == [403] * 3
    readable = [path for (method, path), s in ROUTES.items() if (method, s) == ("GET", "read")]
    texts = [ask(admin, "GET", filled(path), secret).text for path in readable]
    assert not any("How much" in text or "honest question" in text for text in texts)
    seen(f"3 times 403; no text in {len(texts)} routes, {sum(map(len, texts))} characters")


@pytest.mark.attack(
    "keys",
    "a key that reads labels asks for held-out answers without naming them",
    promise="they are left out or refused",
)
def test_held_out_answers_are_shown_to_none_who_does_not_name_them(
    admin: httpx.Client, file_id: str, seen: Seen
) -> None:
    secret = new_key(admin, "labels:read")["key"]
    shown = ask(admin, "GET", f"{V1}/labels?limit=100", secret).json()["data"]
    paths = [f"{V1}/files/{file_id}/content", f"{V1}/labels?split=held_out"]
    refused = [ask(admin, "GET", path, secret).status_code for path in paths]
    every = ask(admin, "GET", f"{V1}/labels?limit=100&held_out=true", secret).json()["data"]
    hidden = next(label["id"] for label in every if label["split"] == "held_out")
    body = {"responses": {hidden: ["1", "2"]}}
    refused.append(ask(admin, "POST", f"{V1}/labels/verdicts", secret, json=body).status_code)
    splits = {label["split"] for label in shown}
    assert (refused, splits) == ([400] * 3, {"train"})
    seen(f"{len(shown)} labels, all of {splits}; content, list and verdicts {refused}")


@pytest.mark.attack(
    "keys",
    "a user, or a key without `train`, names a trial or a candidate",
    promise="vLLM's own 404",
)
@pytest.mark.parametrize("kind", ["none", *(scope for scope in SCOPES if scope != "train")])
def test_hidden_adapters_are_named_by_the_worker_only(
    stack: Any, admin: httpx.Client, make_version_of: Any, seen: Seen, kind: str
) -> None:
    version = make_version_of(stack, seed=5)
    headers = {} if kind == "none" else {"X-Tempo-Key": new_key(admin, kind)["key"]}
    body = chat("hidden") | {"model": f"tempo-v{version}"}
    reply = stack.http.post(CHAT, json=body, headers=headers)
    seen(f"{kind}: {reply.status_code}")
    assert reply.status_code == 404


@pytest.mark.attack(
    "keys",
    "a key with `train` gives a job options that would decide the gate",
    promise="403 or 400, and no job is queued",
)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"auto_promote": False}, 403),
        ({"gate_questions": 8}, 400),
        ({"gate_samples": 1}, 400),
        ({"force": True}, 400),
        ({"promote": True}, 400),
        ({"mode": "check"}, 400),
        ({"sentinel_checks": 50}, 400),
    ],
)
def test_no_option_of_a_job_decides_the_gate(
    admin: httpx.Client, file_id: str, seen: Seen, options: dict[str, Any], expected: int
) -> None:
    secret = new_key(admin, "train")["key"]
    before = len(admin.get(JOBS).json()["data"])
    reply = ask(admin, "POST", JOBS, secret, json={"tempo": options})
    assert (reply.status_code, len(admin.get(JOBS).json()["data"])) == (expected, before)
    seen(f"{next(iter(options))}: {reply.status_code}")


@pytest.mark.attack(
    "keys",
    "a key with `keys` makes or rotates one with more scopes or a longer life",
    promise="403, or the life of its own",
)
def test_no_key_gives_another_more_than_it_has(admin: httpx.Client, seen: Seen) -> None:
    mine = new_key(admin, "keys", expires_in_seconds=600)
    codes = [
        ask(admin, "POST", f"{V1}/keys", mine["key"], json={"name": f"x{n}", "scopes": [s]})
        for n, s in enumerate(SCOPES)
        if s != "keys"
    ]
    keys = admin.get(f"{V1}/keys?limit=100").json()["data"]
    every = next(key for key in keys if key["name"] == "admin")
    strong = new_key(admin, *SCOPES)
    for victim in (every, strong):
        codes.append(ask(admin, "POST", f"{V1}/keys/{victim['id']}/rotate", mine["key"], json={}))
    child = {
        "name": f"child-{secrets.token_hex(4)}",
        "scopes": ["keys"],
        "expires_in_seconds": 9999,
    }
    made = ask(admin, "POST", f"{V1}/keys", mine["key"], json=child).json()
    found = Counter(reply.status_code for reply in codes)
    seen(
        f"{dict(found)}; the new key's life ends {made['expires_at'] - mine['expires_at']} s later"
    )
    assert found.keys() <= {403, 409}
    assert made["expires_at"] <= mine["expires_at"]


@pytest.mark.attack(
    "keys",
    "a key that expired, was rotated without a grace, or revoked",
    promise="401 within about a second",
)
@pytest.mark.parametrize("end", ["expired", "rotated", "revoked"])
def test_a_key_at_its_end_opens_nothing(
    stack: Any, admin: httpx.Client, seen: Seen, end: str
) -> None:
    key = new_key(admin, "read", "train", expires_in_seconds=60)

    def is_open() -> bool:
        return ask(admin, "GET", f"{V1}/status", key["key"]).status_code == 200

    assert is_open()
    start = time.monotonic()
    if end == "expired":
        with stack.sessions.begin() as s:
            s.execute(update(Key).where(Key.name == key["name"]).values(expires_at=1.0))
    elif end == "rotated":
        path = f"{V1}/keys/{key['id']}/rotate"
        assert admin.post(path, json={"grace_seconds": 0}).status_code == 200
    else:
        assert admin.delete(f"{V1}/keys/{key['id']}").status_code == 200
    eventually(lambda: not is_open(), seconds=10)
    seconds = time.monotonic() - start
    reply = ask(admin, "GET", f"{V1}/status", key["key"])
    seen(f"{end}: {reply.status_code} after {seconds:.1f} s")
    assert (reply.status_code, seconds < 5) == (401, True)


@pytest.mark.attack(
    "keys",
    "whoever has all scopes deletes or changes a row of the audit",
    promise="405 or 404; the rows stay",
)
def test_no_route_changes_the_audit(stack: Any, admin: httpx.Client, seen: Seen) -> None:
    new_key(admin, "read")
    row = admin.get(f"{V1}/audit").json()["data"][0]["id"]
    with stack.sessions() as s:
        before = s.query(AuditRecord).count()
    codes = [
        admin.request(method, f"{V1}/audit{rest}").status_code
        for method in ("DELETE", "PUT", "PATCH", "POST")
        for rest in ("", f"/{row}", f"?after={row}")
    ]
    with stack.sessions() as s:
        after = s.query(AuditRecord).count()
    assert set(codes) <= {404, 405}
    assert after == before
    seen(f"{dict(Counter(codes))}, {after} rows as before")
