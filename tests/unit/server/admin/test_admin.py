"""What all admin routes share, the status, the pause switch and the probes."""

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tempo_server import keys
from tempo_server.admin.router import router
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.ledger.models import Key

STATUS = "/tempo/v1/status"


def keyed_routes(app: FastAPI) -> list[tuple[str, str]]:
    paths = app.openapi()["paths"]
    return [(m.upper(), p) for p, methods in paths.items() for m in methods if "/v1/" in p]


def test_every_route_below_v1_wants_a_known_key(admin: Any) -> None:
    routes = keyed_routes(admin.app)
    assert len(routes) >= 16
    for method, path in routes:
        for header in ("", "Bearer tk_wrong", f"Basic {admin.key}"):
            reply = admin(method, path, headers={"Authorization": header})
            assert reply.status_code == 401, (method, path)
            assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("scope", ["", "train", "promote"])
def test_a_key_does_only_what_its_scopes_allow(admin: Any, scope: str) -> None:
    with admin.context.sessions.begin() as s:
        digest = keys._digest("tk_narrow")
        s.add(Key(sha256=digest, name="narrow", scopes=[scope] if scope else [], created_at=0.0))
    for method, path in keyed_routes(admin.app):
        needed = "" if method == "GET" or path.endswith("/learned") else "train"
        promotes = path.endswith(("/promote", "/rollback")) or "/keys" in path
        needed = "promote" if promotes and method != "GET" else needed
        path = path.replace("{adapter_id}", "tempo-v9")
        reply = admin(method, path, headers={"Authorization": "Bearer tk_narrow"})
        if needed in ("", scope):
            assert reply.status_code not in (401, 403), (method, path)
        else:
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (403, "insufficient_scope"), (method, path)
            assert f"scope '{needed}'" in error["message"]


def test_a_scope_that_was_added_is_seen_at_once(admin: Any) -> None:
    pause = "/tempo/v1/training/pause"
    with admin.context.sessions.begin() as s:
        key = Key(sha256=keys._digest("tk_x"), name="x", scopes=[], created_at=0.0)
        s.add(key)
    assert admin("POST", pause, headers={"Authorization": "Bearer tk_x"}).status_code == 403
    with admin.context.sessions.begin() as s:
        s.get_one(Key, keys._digest("tk_x")).scopes = ["train"]
    assert admin("POST", pause, headers={"Authorization": "Bearer tk_x"}).status_code == 200


def test_the_body_of_a_request_without_a_key_is_not_read(admin: Any) -> None:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/tempo/v1/files",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
        "query_string": b"",
    }

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(admin.app(scope, receive, send))
    assert sent[0]["status"] == 401


def test_each_reply_carries_a_request_id(admin: Any) -> None:
    assert admin("GET", STATUS).headers["x-request-id"].startswith("req_")
    given = admin("GET", STATUS, headers={"x-request-id": "mine-7"})
    assert given.headers["x-request-id"] == "mine-7"
    odd = admin("GET", STATUS, headers={"x-request-id": "a b\x7f"})
    assert odd.headers["x-request-id"].startswith("req_")
    assert admin("GET", "/tempo/v1/files/none").headers["x-request-id"].startswith("req_")


def test_a_fault_of_ours_shows_no_more_than_a_request_id(
    admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(ledger.labeled, "count", fail)
    reply = admin("GET", STATUS)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]


def test_the_status_tells_the_whole_story(admin: Any, labeled: bytes) -> None:
    admin.upload(labeled)
    with admin.context.sessions.begin() as s:
        ledger.leases.acquire(s, ledger.leases.TRAINER, "worker-1", 30.0)
        counters = {"captured": 9, "skipped": 2, "opted_out": 1, "dropped": 0, "spooled": 4}
        ledger.versions.acknowledge(s, "p", version=0, sequence=0, counters=counters)
        job = ledger.jobs.create(s, "j", "round", {})
        job.status, job.progress = "running", {"phase": "m_step", "iteration": 3}
        ledger.events.add(s, "oops", "it broke", level="error")
    body = admin("GET", STATUS).json()
    assert (body["model"], body["serving_adapter"]) == ("tiny-reasoner", "tempo-v0")
    assert (body["phase"], body["iteration"], body["paused"]) == ("m_step", 3, False)
    assert body["questions"]["streamed"] is None
    assert (body["questions"]["skipped"], body["questions"]["spooled"]) == (2, 4)
    assert sum(body["labeled"].values()) == 12
    assert (body["worker"]["alive"], body["worker"]["owner"]) == (True, "worker-1")
    assert body["worker"]["lease_expires_at"] > time.time()
    assert body["last_error"]["message"] == "it broke"
    assert [p["id"] for p in body["processes"]] == ["p"]
    assert "vllm-tempo" in body["versions"]


def test_pausing_is_kept_until_training_is_resumed(admin: Any) -> None:
    reply = admin("POST", "/tempo/v1/training/pause", json={"reason": "maintenance"})
    assert (reply.json()["paused"], reply.json()["reason"]) == (True, "maintenance")
    assert admin("GET", STATUS).json()["phase"] == "paused"
    assert admin("POST", "/tempo/v1/training/pause").json()["reason"] == ""
    assert admin("POST", "/tempo/v1/training/resume").json()["paused"] is False
    assert admin("GET", STATUS).json()["phase"] == "idle"


def test_probes_need_no_key_and_valkey_is_not_needed_to_serve(admin: Any) -> None:
    nobody = {"Authorization": ""}
    assert admin("GET", "/tempo/healthz", headers=nobody).json()["status"] == "ok"
    reply = admin("GET", "/tempo/readyz", headers=nobody)
    assert reply.status_code == 200
    assert reply.json()["checks"] == {"database": True, "valkey": False, "worker": False}


def test_a_lost_database_is_said_and_not_shown(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        s.connection().exec_driver_sql("DROP TABLE serving")
    reply = admin("GET", STATUS)
    assert reply.status_code == 503
    assert "SELECT" not in reply.text
    assert reply.headers["retry-after"]


def test_a_server_that_starts_says_so(admin: Any) -> None:
    admin.app = FastAPI()
    admin.app.include_router(router)
    for path in (STATUS, "/tempo/readyz", "/tempo/healthz"):
        assert admin("GET", path).status_code == 503


def test_the_key_file_is_private_and_only_its_hash_is_stored(context: Context) -> None:
    path = context.settings.admin_key_path
    key = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.startswith("tk_")
    assert len(key) > 40
    assert keys.ensure_admin_key(context) == path
    assert path.read_text().strip() == key
    with context.sessions.begin() as s:
        rows = ledger.keys.find(s)
        assert [row.scopes for row in rows] == [["train", "promote"]]
    database = Path(context.sessions.kw["bind"].url.database)
    for file in database.parent.glob(f"{database.name}*"):
        assert key.encode() not in file.read_bytes()


def test_a_key_that_another_machine_adds_is_found(admin: Any) -> None:
    assert not keys.is_known_key(admin.context, "tk_other")
    with admin.context.sessions.begin() as s:
        digest = keys._digest("tk_other")
        s.add(Key(sha256=digest, name="other", scopes=[], created_at=0.0))
    assert admin("GET", STATUS, headers={"Authorization": "bearer tk_other"}).status_code == 200
    assert keys.is_known_key(admin.context, "tk_other")
