"""Each change writes a row of the audit: who, from where, what, before and after."""

from typing import Any

import pytest
from ledgers import candidate, captured

from tempo_storage import ledger
from tempo_storage.ledger.audit import SYSTEM

V1 = "/tempo/v1"
AUDIT = f"{V1}/audit"
TENANT = "a" * 16
CANARY = "canary-4711"


@pytest.fixture
def changed(admin: Any) -> list[dict[str, Any]]:
    """Make one change of each kind; return the audit, oldest first."""
    rows = [
        f'{{"question": "{CANARY} {n}", "answer": "{CANARY}", "verifier": "exact"}}\n'
        for n in range(9)
    ]
    file_id = admin.upload("".join(rows).encode(), f"{CANARY}.jsonl").json()["id"]
    label = admin("GET", f"{V1}/labels").json()["data"][0]["id"]
    admin("PUT", f"{V1}/labels/{label}", json={"answer": f"{CANARY} 2"})
    admin("DELETE", f"{V1}/labels/{label}")
    job = admin("POST", f"{V1}/fine_tuning/jobs", json={}).json()["id"]
    admin("POST", f"{V1}/fine_tuning/jobs/{job}/pause")
    admin("POST", f"{V1}/training/resume", json={"new_tests": True})
    admin("POST", f"{V1}/fine_tuning/jobs/{job}/cancel")
    admin.publish(1)
    admin("POST", f"{V1}/adapters/tempo-v1/promote", json={"reason": "by eye"})
    admin("POST", f"{V1}/adapters/rollback")
    admin("POST", f"{V1}/adapters/rollback", json={"to": "base"})  # changes nothing
    admin.publish(2)
    admin("DELETE", f"{V1}/models/tempo-v2")
    with admin.context.sessions.begin() as s:
        ledger.pool.add(s, [captured("q_1", CANARY, tenant=TENANT)], quarantine=9)
    admin("POST", f"{V1}/questions/tenants/{TENANT}/admit")
    admin("DELETE", f"{V1}/questions", params={"tenant": TENANT})
    key = admin("POST", f"{V1}/keys", json={"name": "ci"}).json()["id"]
    new = admin("POST", f"{V1}/keys/{key}/rotate").json()["id"]
    admin("DELETE", f"{V1}/keys/{new}")
    admin("DELETE", f"{V1}/files/{file_id}")
    listed: list[dict[str, Any]] = admin("GET", AUDIT, params={"limit": 100}).json()["data"]
    return listed[::-1]


def test_every_kind_of_change_has_its_row(changed: list[dict[str, Any]]) -> None:
    assert [row["action"] for row in changed] == [
        "key.created",  # the first one, by the server
        "labels.uploaded",
        "label.replaced",
        "label.removed",
        "job.queued",
        "training.paused",
        "training.resumed",
        "gate.reset",
        "job.cancelled",
        "version.promoted",
        "gate.reset",  # a promotion by hand
        "version.rolled_back",
        "version.deleted",
        "tenant.admitted",
        "questions.erased",
        "key.created",
        "key.rotated",
        "key.revoked",
        "labels.deleted",
    ]


def test_a_row_says_who_from_where_and_what_changed(
    admin: Any, changed: list[dict[str, Any]]
) -> None:
    by_action = {row["action"]: row for row in changed}
    admins_id = admin("GET", f"{V1}/keys").json()["data"][-1]["id"]
    assert {row["actor"] for row in changed[1:]} == {f"key {admins_id} (admin)"}
    assert {row["address"] for row in changed[1:]} == {"127.0.0.1"}
    assert changed[0]["actor"] == SYSTEM.name
    promotion = by_action["version.promoted"]
    assert (promotion["subject"], promotion["before"]) == ("tempo-v1", {"serving": "tempo-v0"})
    assert promotion["after"] == {"serving": "tempo-v1", "reason": "by eye", "force": False}
    assert by_action["version.rolled_back"]["after"]["serving"] == "tempo-v0"
    admission = by_action["tenant.admitted"]
    assert (admission["subject"], admission["before"]) == (TENANT, {"quarantined": True})
    assert by_action["questions.erased"]["before"] == {"questions": 1}
    assert by_action["labels.uploaded"]["after"] == {"labels": 9}
    assert by_action["job.cancelled"]["before"] == {"status": "queued"}
    rotation = by_action["key.rotated"]
    assert rotation["before"]["expires_at"] is None
    assert rotation["after"]["old_expires_at"] > 0


def test_the_audit_has_no_text_of_a_question_or_an_answer(
    admin: Any, changed: list[dict[str, Any]]
) -> None:
    assert CANARY not in str(changed)
    assert admin.key not in str(changed)


def test_no_route_changes_or_deletes_the_audit(admin: Any, changed: list[dict[str, Any]]) -> None:
    paths = {path: [*methods] for path, methods in admin.app.openapi()["paths"].items()}
    assert {path: methods for path, methods in paths.items() if "audit" in path} == {AUDIT: ["get"]}
    for method in ("DELETE", "PUT", "PATCH", "POST"):
        assert admin(method, AUDIT).status_code == 405
    assert len(admin("GET", AUDIT, params={"limit": 100}).json()["data"]) == len(changed)


def test_a_change_that_fails_writes_no_row(admin: Any) -> None:
    before = len(admin("GET", AUDIT).json()["data"])
    admin("POST", f"{V1}/adapters/tempo-v7/promote")
    admin("POST", f"{V1}/fine_tuning/jobs", json={})
    admin("DELETE", f"{V1}/keys/none")
    admin("POST", f"{V1}/questions/tenants/{TENANT}/admit")
    admin("POST", f"{V1}/files", files={"file": ("x", b"{}")}, data={"dry_run": "true"})
    assert len(admin("GET", AUDIT).json()["data"]) == before


def test_the_audit_is_listed_page_by_page(admin: Any, changed: list[dict[str, Any]]) -> None:
    first = admin("GET", AUDIT, params={"limit": 5}).json()
    rest = admin("GET", AUDIT, params={"limit": 100, "after": first["data"][-1]["id"]}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [*first["data"], *rest["data"]] == changed[::-1]
    assert admin("GET", AUDIT, params={"after": "audit-x"}).status_code == 400


def test_what_a_process_does_by_itself_is_in_the_audit_too(sessions: Any) -> None:
    with sessions.begin() as s:
        s.add(candidate(1))
        ledger.versions.promote(s, 1, reason="job j: every bound holds")
        ledger.versions.reject_serving(s, 1, to=0, reason="below the base")
        ledger.training.set_paused(s, True, "the sentinel rolled back")
        ledger.audit.record_settings(s, {"group_size": 8, "dtype": "auto"})
        ledger.audit.record_settings(s, {"group_size": 8, "dtype": "auto"})
        ledger.audit.record_settings(s, {"group_size": 4, "dtype": "auto"})
    with sessions() as s:
        rows = ledger.audit.find(s)[::-1]
    assert [(row.action, row.actor) for row in rows] == [
        ("version.promoted", "system"),
        ("version.rolled_back", "system"),
        ("training.paused", "system"),
        ("settings.changed", "system"),
        ("settings.changed", "system"),
    ]
    assert (rows[-1].before, rows[-1].after) == ({"group_size": 8}, {"group_size": 4})
