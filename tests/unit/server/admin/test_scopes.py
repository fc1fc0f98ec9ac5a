"""Each route × each kind of key: only the route's own scope opens it."""

import time
from pathlib import Path
from typing import Any

import pytest
from ledgers import held_out, labeled

from tempo_server import keys
from tempo_server.admin.route_table import markdown, scope_of_routes
from tempo_storage.ledger.models import Key

PAGE = Path(__file__).parents[4] / "server" / "docs" / "keys.md"
ROUTES = {route: scope for route, scope in scope_of_routes().items() if scope}
SINGLE = {scope: [scope] for scope in keys.SCOPES}
KINDS = {
    "none": None,
    "user's": None,  # a key of vLLM's --api-key
    **SINGLE,
    "full": [*keys.SCOPES],
    "expired": [*keys.SCOPES],
    "revoked": [*keys.SCOPES],
}
JOBS = "/tempo/v1/fine_tuning/jobs"


def add_key(admin: Any, scopes: list[str]) -> str:
    """Put a key into the ledger as another process would; return it."""
    secret = keys.new_key()
    with admin.context.sessions.begin() as s:
        s.add(Key(sha256=keys.digest(secret), name=secret, scopes=scopes))
    return secret


def header_of(admin: Any, kind: str) -> dict[str, str]:
    """Return the Authorization header of a kind of key, after its key has been used once."""
    if kind == "none":
        return {"Authorization": ""}
    if kind == "user's":
        return {"Authorization": "Bearer sk-user"}
    header = {"Authorization": f"Bearer {add_key(admin, KINDS[kind] or [])}"}
    admin("GET", "/tempo/v1/status", headers=header)
    digest = keys.digest(header["Authorization"].split()[1])
    with admin.context.sessions.begin() as s:
        row = s.get_one(Key, digest)
        if kind == "expired":
            row.expires_at = time.time() - 1
        if kind == "revoked":
            s.delete(row)
    keys.read_keys(admin.context)  # as the next poll does
    return header


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_key_opens_the_routes_of_its_scopes_and_no_other(admin: Any, kind: str) -> None:
    header = header_of(admin, kind)
    allowed = KINDS[kind] if kind not in ("expired", "revoked") else None
    for (method, path), scope in ROUTES.items():
        path = path.replace("{adapter_id}", "tempo-v9").replace("{model}", "tempo-v9")
        reply = admin(method, path, headers=header)
        place = (kind, method, path, reply.text)
        if allowed is None:
            assert reply.status_code == 401, place
            assert reply.json()["error"]["code"] == "invalid_api_key"
        elif scope in allowed:
            assert reply.status_code not in (401, 403, 500), place
        else:
            assert reply.status_code == 403, place
            assert f"scope '{scope}'" in reply.json()["error"]["message"]


def test_the_page_has_the_table_that_the_code_gives() -> None:
    assert markdown() in PAGE.read_text(), "python -m tempo_server.admin.route_table"


def test_the_table_has_every_route_of_the_app(admin: Any) -> None:
    paths = admin.app.openapi()["paths"]
    assert {(m.upper(), path) for path in paths for m in paths[path]} == scope_of_routes().keys()
    assert {scope for scope in ROUTES.values()} == set(keys.SCOPES)


# The scopes that a body asks for ------------------------------------------------------------------


def post(admin: Any, scopes: list[str], path: str, body: dict[str, Any]) -> tuple[int, Any]:
    header = {"Authorization": f"Bearer {add_key(admin, scopes)}"}
    reply = admin("POST", path, json=body, headers=header)
    return reply.status_code, reply.json()


def test_no_option_of_a_job_changes_the_gate_or_the_promotion_without_the_scope_promote(
    admin: Any, labeled: bytes
) -> None:
    admin.upload(labeled)
    by_hand = {"tempo": {"auto_promote": False}}
    status, body = post(admin, ["train"], JOBS, by_hand)
    assert (status, body["error"]["code"]) == (403, "insufficient_scope")
    for option in ("gate_questions", "gate_samples", "sentinel_checks", "promote", "force"):
        status, body = post(admin, ["train"], JOBS, {"tempo": {option: 1}})
        assert (status, body["error"]["param"]) == (400, f"tempo.{option}")
    assert post(admin, ["train"], JOBS, {"tempo": {"max_steps": 1}})[0] == 200
    status, _ = post(admin, ["train", "promote"], JOBS, by_hand)
    assert status == 409  # only because the job before has not ended


def test_only_the_scope_promote_resets_the_number_of_the_gates_tests(admin: Any) -> None:
    resume = "/tempo/v1/training/resume"
    assert post(admin, ["train"], resume, {"new_tests": True})[0] == 403
    assert post(admin, ["promote"], resume, {"new_tests": True})[0] == 403
    assert post(admin, ["train", "promote"], resume, {"new_tests": True})[0] == 200


# Held-out answers ---------------------------------------------------------------------------------


def test_held_out_answers_are_given_only_to_a_request_that_names_them(
    admin: Any, labeled: bytes
) -> None:
    file_id = admin.upload(labeled).json()["id"]
    labels = "/tempo/v1/labels"
    content = f"/tempo/v1/files/{file_id}/content"
    assert {item["split"] for item in admin("GET", labels).json()["data"]} == {"train"}
    for path, params in ((labels, {"split": "held_out"}), (content, {})):
        reply = admin("GET", path, params=params)
        assert (reply.status_code, "held_out=true" in reply.text) == (400, True)
    assert admin("GET", content, params={"held_out": "true"}).content == labeled
    every = admin("GET", labels, params={"held_out": "true"}).json()["data"]
    assert {item["split"] for item in every} == {"train", "held_out"}
    for name in ("", f"/{file_id}"):
        assert '"reference":' not in admin("GET", f"/tempo/v1/files{name}").text


@pytest.mark.parametrize("others", [[], ["labels:read"]])
def test_a_question_is_shown_for_a_new_answer_only_to_a_key_that_reads_labels(
    admin: Any, others: list[str]
) -> None:
    with admin.context.sessions.begin() as s:
        s.add(secret := held_out("2 + 2"))
    header = {"Authorization": f"Bearer {add_key(admin, ['labels:write', *others])}"}
    path = f"/tempo/v1/labels/{secret.content_hash}"
    reply = admin("PUT", path, json={"answer": "4"}, headers=header)
    assert (reply.status_code, "2 + 2" in reply.text) == ((200, True) if others else (403, False))


def test_a_response_is_verified_against_a_held_out_answer_only_if_the_request_names_it(
    admin: Any,
) -> None:
    secret = held_out("2 + 2")
    with admin.context.sessions.begin() as s:
        s.add_all([labeled("1 + 1"), secret])
    body = {"responses": {secret.content_hash: ["1"]}}
    verdicts = "/tempo/v1/labels/verdicts"
    assert admin("POST", verdicts, json=body).status_code == 400
    reply = admin("POST", verdicts, json=body | {"held_out": True}).json()
    assert reply["verdicts"] == {secret.content_hash: [True]}


# Hidden adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_only_the_scope_train_names_hidden_adapters(admin: Any, scope: str) -> None:
    secret = add_key(admin, [scope])
    keys.read_keys(admin.context)
    assert keys.is_workers_key(admin.context, secret) is (scope == "train")
