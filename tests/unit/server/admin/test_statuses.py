"""Every status that a route answers is in the OpenAPI document, and every status there is answered.

One app, and requests of each kind: hostile numbers and types in every field, parameter and id, and
each refusal that a state of the ledger leads to.
"""

import asyncio
import errno
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from ledgers import candidate

from tempo_server.admin import files, route
from tempo_server.admin.route_table import scope_of_routes
from tempo_server.admin.slots import MAX_WAITING, Slots
from tempo_storage import ledger

V1 = "/tempo/v1"
JOBS = f"{V1}/fine_tuning/jobs"
# Each is a JSON text; Python writes some of them differently.
HOSTILE = (
    *("1e400", "-1e400", "NaN", "Infinity", str(10**400), str(-(10**400)), "9" * 5000),
    *(str(2**63), str(-(2**63) - 1), "1.5", "-1", "true", "null", "[]", "{}", '""', '"x"'),
    *('"\\u0000"', '"\\ud800"', "[" * 600 + "]" * 600, "[1e400]", '{"a": 1e400}', "[[null]]"),
)
HOSTILE_TEXTS = (
    "-1",
    "0",
    str(2**63),
    "9" * 400,
    "1e400",
    "NaN",
    "%00",
    "%FF",
    "true",
    "",
    "٣",
    "a/b",
)
JSON_TYPE = {"content-type": "application/json"}
FORM_TYPE = {"content-type": "multipart/form-data; boundary=x"}
TENANT = "a" * 16
# A route may answer these, too; no test can provoke all of them.
ALWAYS = {200, 500, 503}


def documented(app: Any, method: str, path: str) -> set[int]:
    """Return the statuses that the OpenAPI document has for a route."""
    answers = app.openapi()["paths"][path][method.lower()]["responses"]
    return {int(status) for status in answers if status != "default"}


def body_fields(app: Any, method: str, path: str) -> dict[str, Any]:
    """Return the fields of a route's JSON body, by name; {} for a route without one."""
    document = app.openapi()
    content = document["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    return fields_of(document, schema)


def fields_of(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for part in schema.get("anyOf", [schema]):
        name = part.get("$ref", "").rpartition("/")[2]
        part = document["components"]["schemas"].get(name, part)
        if "properties" in part:
            return dict(part["properties"])
    return {}


def hostile_bodies(app: Any, method: str, path: str) -> Iterator[str]:
    """Yield bodies that are no object, and bodies with a hostile value in one field."""
    fields = body_fields(app, method, path)
    if not fields:
        return
    yield from HOSTILE
    valid = {"name": '"n"', "question": '"q"', "answer": '"a"', "responses": "{}"}
    for name, schema in fields.items():
        inner = fields_of(app.openapi(), schema)
        for value in HOSTILE:
            for text in (value, *(f'{{"{key}": {value}}}' for key in inner)):
                values = {k: v for k, v in valid.items() if k in fields} | {name: text}
                yield "{" + ", ".join(f'"{k}": {v}' for k, v in values.items()) + "}"


def query_names(app: Any, method: str, path: str) -> list[str]:
    parameters = app.openapi()["paths"][path][method.lower()].get("parameters", ())
    return [one["name"] for one in parameters if one["in"] == "query"]


def filled(path: str, value: str = "none") -> str:
    """Return a path with a value for its ids."""
    return "/".join(value if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize(("method", "path"), scope_of_routes())
@pytest.mark.attack(
    "numbers and ids",
    "hostile numbers, types and texts in every field, parameter and id of every route",
    promise="a documented status, no 5xx",
)
def test_no_number_type_or_text_brings_a_status_that_is_not_documented(
    admin: Any, labeled: bytes, method: str, path: str, seen: Callable[[object], None]
) -> None:
    admin.upload(labeled)
    statuses = documented(admin.app, method, path)
    replies = [
        admin(method, filled(path), content=body.encode(), headers=JSON_TYPE)
        for body in hostile_bodies(admin.app, method, path)
    ]
    for name in (*query_names(admin.app, method, path), "unknown"):
        replies += [admin(method, f"{filled(path)}?{name}={text}") for text in HOSTILE_TEXTS]
    if "{" in path:
        replies += [admin(method, filled(path, text)) for text in HOSTILE_TEXTS if text]
    for reply in replies:
        if reply.status_code in (404, 405) and b"there is no route" in reply.content:
            continue  # an id with a slash is another path
        assert reply.status_code < 500, (str(reply.request.url), reply.request.content[:200])
        assert reply.status_code in statuses | {405, 307}, (str(reply.request.url), reply.text)
    seen(f"{method} {path.removeprefix(V1)}: {len(replies)} requests")


@pytest.mark.parametrize("verb", ["validate", "run"])
@pytest.mark.parametrize("place", ["grader", "item"])
def test_an_infinity_that_no_answer_can_carry_is_refused(admin: Any, verb: str, place: str) -> None:
    check = '"type": "string_check", "operation": "eq", "input": "a", "reference": "b"'
    extra = {name: '"x": 1e400' if name == place else '"x": 1' for name in ("grader", "item")}
    body = f'{{"grader": {{{check}, {extra["grader"]}}}'
    if verb == "run":
        body += f', "model_sample": "m", "item": {{{extra["item"]}}}'
    path = f"{V1}/fine_tuning/alpha/graders/{verb}"
    reply = admin("POST", path, content=body + "}", headers=JSON_TYPE)
    expected = 200 if (verb, place) == ("validate", "item") else 400
    assert reply.status_code == expected, reply.text


# Every documented status --------------------------------------------------------------------------


class Observed:
    """Sends requests, and keeps the statuses of each route."""

    def __init__(self, admin: Any) -> None:
        self.admin = admin
        self.statuses: dict[tuple[str, str], set[int]] = defaultdict(set)

    def __call__(self, method: str, path: str, id: str = "none", **options: Any) -> Any:
        query = options.pop("query", "")
        reply = self.admin(method, filled(path, id) + query, **options)
        self.statuses[method, path].add(reply.status_code)
        return reply


def observe_refusals(send: Observed) -> None:
    """Provoke 401, 403, 400 and 413 on each route, and 404 on those with an id or a list."""
    for (method, path), scope in scope_of_routes().items():
        if scope is None:
            continue
        send(method, path, headers={"Authorization": ""})
        send(method, path, query="?unknown=1")
        send(method, path, query="?after=none")
        send(method, path, id="tempo-v9")
        send(method, path, json={"answer": "a"})
        if has_body(send.admin.app, method, path):
            send(method, path, content=b" " * (route.MAX_BODY_BYTES + 1), headers=JSON_TYPE)


def has_body(app: Any, method: str, path: str) -> bool:
    return "requestBody" in app.openapi()["paths"][path][method.lower()]


async def slow_body() -> AsyncIterator[bytes]:
    await asyncio.sleep(0.05)
    yield b"{}"


def observe_load(send: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provoke 408 on each route that takes a body, and 429 on those that wait for a slot."""
    app = send.admin.app
    monkeypatch.setattr(app.state, "tempo_slots", Slots(waiting=MAX_WAITING), raising=False)
    monkeypatch.setattr(route, "BODY_SECONDS", 0.0)
    for method, path in scope_of_routes():
        if has_body(app, method, path):
            headers = FORM_TYPE if path == f"{V1}/files" else JSON_TYPE
            send(method, path, content=slow_body(), headers=headers)
            send(method, path, json={"answer": "a"})


def observe_lists(send: Observed) -> None:
    for path in ("/fine_tuning/jobs", "/files", "/keys", "/questions/tenants"):
        send("GET", f"{V1}{path}", query="?after=none")
    send("GET", f"{V1}/files/{{file_id}}/content", query="?held_out=true")
    send("POST", JOBS, json={"training_file": "none"})
    send("POST", f"{V1}/files", files={"file": ("x", b" " * (route.MAX_BODY_BYTES + 1))})
    send("POST", f"{V1}/labels/verdicts", json={"responses": {"none": ["x"]}})
    send("POST", f"{V1}/questions/tenants/{{tenant}}/admit", TENANT)


def observe_states(send: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provoke the refusals that depend on the state: 409, 422 and 507."""
    admin = send.admin
    send("POST", JOBS, json={})
    send("POST", JOBS, json={})
    with admin.context.sessions.begin() as s:
        ledger.jobs.create(s, "ended", "round", {}).status = "succeeded"
        s.add(candidate(7, "rejected"))
        s.add(candidate(8, "corrupt"))
    admin.publish(9, "rejected")
    for verb in ("cancel", "pause", "resume"):
        send("POST", f"{JOBS}/{{job_id}}/{verb}", "ended")
    promote, rollback = f"{V1}/adapters/{{adapter_id}}/promote", f"{V1}/adapters/rollback"
    send("POST", promote, "tempo-v9")
    send("POST", promote, "tempo-v9", json={"expected_current": "tempo-v5"})
    send("POST", rollback, json={"to": "tempo-v9"})
    send("POST", rollback, json={"to": "tempo-v5"})
    send("POST", rollback)
    send("DELETE", f"{V1}/models/{{model}}", "tempo-v0")
    first = admin("GET", f"{V1}/keys").json()["data"][-1]["id"]
    send("POST", f"{V1}/keys", json={"name": "admin"})
    send("POST", f"{V1}/keys/{{key_id}}/rotate", first)
    send("DELETE", f"{V1}/keys/{{key_id}}", first)
    with monkeypatch.context() as patch:
        patch.setattr(files, "parse", full_disk)
        send("POST", f"{V1}/files", files={"file": ("x", b"{}")})


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_every_documented_status_is_answered_and_no_other(
    admin: Any, labeled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.upload(labeled)
    monkeypatch.setattr(route, "MAX_BODY_BYTES", 4096)
    send = Observed(admin)
    observe_refusals(send)
    observe_lists(send)
    observe_states(send, monkeypatch)
    with monkeypatch.context() as patch:
        observe_load(send, patch)
    reader = admin("POST", f"{V1}/keys", json={"name": "r", "scopes": ["read"]}).json()["key"]
    trainer = admin("POST", f"{V1}/keys", json={"name": "t", "scopes": ["train"]}).json()["key"]
    for (method, path), scope in scope_of_routes().items():
        if scope:
            key = trainer if scope == "read" else reader
            send(method, path, headers={"Authorization": f"Bearer {key}"})
    wrong = {}
    for (method, path), scope in scope_of_routes().items():
        said = documented(admin.app, method, path) - ALWAYS
        answered = send.statuses[method, path] - ALWAYS
        if scope and said != answered:
            wrong[method, path] = (sorted(said - answered), sorted(answered - said))
    assert wrong == {}, "documented and not answered; answered and not documented"


def test_a_server_that_starts_answers_a_documented_503_on_each_route(admin: Any) -> None:
    del admin.app.state.tempo
    for method, path in scope_of_routes():
        assert admin(method, filled(path)).status_code == 503
        assert 503 in documented(admin.app, method, path)
