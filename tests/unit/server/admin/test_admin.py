"""Keys and errors on all admin routes, the status, the pause, and the health routes."""

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from ledgers import captured, hold_lease

from tempo_server import keys
from tempo_server.admin.router import router
from tempo_server.context import Context
from tempo_storage import ledger
from tempo_storage.ledger.models import Key
from tempo_storage.valkey.streams import QuestionStream

STATUS = "/tempo/v1/status"


def routes_with_key(app: FastAPI) -> list[tuple[str, str]]:
    """Return method and path of each route below /tempo/v1."""
    paths = app.openapi()["paths"]
    return [(m.upper(), p) for p, methods in paths.items() for m in methods if "/v1/" in p]


def test_every_route_below_v1_needs_an_admin_key(admin: Any) -> None:
    for method, path in routes_with_key(admin.app):
        for header in ("", "Bearer tk_wrong", f"Basic {admin.key}"):
            reply = admin(method, path, headers={"Authorization": header})
            assert reply.status_code == 401, (method, path)
            assert reply.json()["error"]["code"] == "invalid_api_key"


def test_a_scope_that_another_process_added_counts_at_once(admin: Any) -> None:
    pause = "/tempo/v1/training/pause"
    with admin.context.sessions.begin() as s:
        key = Key(sha256=keys.digest("tk_x"), name="x", scopes=[], created_at=0.0)
        s.add(key)
    assert admin("POST", pause, headers={"Authorization": "Bearer tk_x"}).status_code == 403
    with admin.context.sessions.begin() as s:
        s.get_one(Key, keys.digest("tk_x")).scopes = ["train"]
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


def test_each_reply_has_a_request_id_the_client_s_if_it_is_a_plain_word(admin: Any) -> None:
    assert admin("GET", STATUS).headers["x-request-id"].startswith("req_")
    reply = admin("GET", STATUS, headers={"x-request-id": "mine-7"})
    assert reply.headers["x-request-id"] == "mine-7"
    reply = admin("GET", STATUS, headers={"x-request-id": "a b\x7f"})
    assert reply.headers["x-request-id"].startswith("req_")
    assert admin("GET", "/tempo/v1/files/none").headers["x-request-id"].startswith("req_")


def test_a_defect_of_the_server_shows_the_client_only_a_request_id(
    admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(ledger.labeled, "count", fail)
    reply = admin("GET", STATUS)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]


def test_the_status_shows_serving_training_questions_and_processes(
    admin: Any, labeled: bytes
) -> None:
    admin.upload(labeled)
    with admin.context.sessions.begin() as s:
        ledger.leases.acquire(s, "worker-1", 30.0)
        counters = {"captured": 9, "skipped": 2, "opted_out": 1, "dropped": 0, "spooled": 4}
        ledger.versions.acknowledge(s, "p", version=0, sequence=0, counters=counters)
        job = ledger.jobs.create(s, "j", "round", {})
        job.status = "running"
        job.progress = {"phase": "m_step", "iteration": 3}
        ledger.events.add(s, "oops", "it broke", level="error")
    body = admin("GET", STATUS).json()
    assert (body["model"], body["serving_adapter"]) == ("tiny-reasoner", "tempo-v0")
    assert (body["phase"], body["iteration"], body["paused"]) == ("m_step", 3, False)
    assert body["questions"]["streamed"] is None
    assert (body["questions"]["skipped"], body["questions"]["spooled"]) == (2, 4)
    counts = {"train": 6, "held_out": 6, "missing": 52}
    assert body["labeled"].items() >= counts.items()
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": None}
    assert body["default_decoding"] == body["users_decoding"] == plain
    assert (body["worker"]["alive"], body["worker"]["owner"]) == (True, "worker-1")
    assert body["worker"]["lease_expires_at"] > time.time()
    assert body["last_error"]["message"] == "it broke"
    assert [p["id"] for p in body["processes"]] == ["p"]
    assert "vllm-tempo" in body["versions"]


def test_the_status_shows_by_which_sampling_the_gate_judges(admin: Any) -> None:
    asked = {"temperature": 0.8, "max_tokens": 256}
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q1", "1 + 1", **asked), captured("q2", "2 + 2", top_k=20)])
        ledger.pool.add(s, [captured("q3", "3 + 3", **asked)])
    body = admin("GET", STATUS).json()
    users = {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_tokens": 256}
    assert body["users_decoding"] == users
    assert body["default_decoding"]["max_tokens"] is None


@pytest.mark.parametrize("paused", [True, False])
def test_only_a_request_for_new_tests_resets_the_number_of_the_gates_tests(
    paused: bool, admin: Any
) -> None:
    def resume(**options: Any) -> Any:
        return admin("POST", "/tempo/v1/training/resume", **options).json()

    def num_tests() -> int:
        with admin.context.sessions() as s:
            return ledger.gate_tests.count(s, "a set")

    with admin.context.sessions.begin() as s:
        ledger.gate_tests.record(s, "job", 1, promoted=False, held_out="a set")
        ledger.training.set_paused(s, paused)
    for options in ({}, {"json": {}}, {"json": {"new_tests": False}}):
        assert resume(**options)["new_tests"] is False
        assert num_tests() == 1
    reply = resume(json={"new_tests": True})
    assert (reply["new_tests"], reply["paused"]) == (True, False)
    assert num_tests() == 0
    assert resume(json={"tests": True})["error"]["param"] == "tests"


def test_a_pause_lasts_until_training_is_resumed(admin: Any) -> None:
    reply = admin("POST", "/tempo/v1/training/pause", json={"reason": "maintenance"})
    assert (reply.json()["paused"], reply.json()["reason"]) == (True, "maintenance")
    assert admin("GET", STATUS).json()["phase"] == "paused"
    assert admin("POST", "/tempo/v1/training/pause").json()["reason"] == ""
    assert admin("POST", "/tempo/v1/training/resume").json()["paused"] is False
    assert admin("GET", STATUS).json()["phase"] == "idle"


def test_the_health_routes_need_no_key_and_readiness_no_valkey(admin: Any) -> None:
    no_key = {"Authorization": ""}
    assert admin("GET", "/tempo/healthz", headers=no_key).json()["status"] == "ok"
    reply = admin("GET", "/tempo/readyz", headers=no_key)
    assert reply.status_code == 200
    assert reply.json()["checks"] == {"database": True, "valkey": False, "worker": False}


def test_a_lost_database_is_503_without_its_sql(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        s.connection().exec_driver_sql("DROP TABLE serving")
    reply = admin("GET", STATUS)
    assert reply.status_code == 503
    assert "SELECT" not in reply.text
    assert reply.headers["retry-after"]


def test_while_the_server_starts_every_admin_route_answers_503(admin: Any) -> None:
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
        assert [row.scopes for row in rows] == [[*keys.SCOPES]]
    database = Path(context.sessions.kw["bind"].url.database)
    for file in database.parent.glob(f"{database.name}*"):
        assert key.encode() not in file.read_bytes()


def names(context: Context) -> set[str]:
    """Return the names of the keys in memory."""
    return {key.name for key in context.keys.values()}


def test_a_key_that_another_process_added_is_found_in_the_ledger(admin: Any) -> None:
    assert "other" not in names(admin.context)
    with admin.context.sessions.begin() as s:
        digest = keys.digest("tk_other")
        s.add(Key(sha256=digest, name="other", scopes=["read"], created_at=0.0))
    assert admin("GET", STATUS, headers={"Authorization": "bearer tk_other"}).status_code == 200
    assert "other" in names(admin.context)


@pytest.mark.parametrize("stalled", [False, True])
def test_a_stalled_stream_shows_in_the_status_and_in_the_readiness_of_the_worker(
    admin: Any, monkeypatch: pytest.MonkeyPatch, stalled: bool
) -> None:
    monkeypatch.setattr(QuestionStream, "backlog", lambda _: 7)
    monkeypatch.setattr(QuestionStream, "has_stalled", lambda _: stalled)
    hold_lease(admin.context.sessions)
    questions = admin("GET", "/tempo/v1/status").json()["questions"]
    assert (questions["streamed"], questions["stalled"]) == (7, stalled)
    health = admin("GET", "/tempo/readyz")
    assert (health.status_code, health.json()["checks"]["worker"]) == (200, not stalled)
