"""Versions in the form of OpenAI's models: list, show, delete."""

from typing import Any

import pytest

from tempo_storage import ledger

MODELS = "/tempo/v1/models"


def test_models_are_the_versions_whose_files_are_there(admin: Any) -> None:
    for version in (1, 2, 3):
        admin.publish(version)
    assert admin("DELETE", f"{MODELS}/tempo-v2").status_code == 200
    body = admin("GET", MODELS).json()
    assert [model["id"] for model in body["data"]] == ["tempo-v3", "tempo-v1", "tempo-v0"]
    assert {model["parent"] for model in body["data"]} == {"tempo-v0"}
    assert admin("GET", f"{MODELS}/tempo-v3").json() == body["data"][0]
    for name in ("tempo-v2", "tempo-v9", "gpt-5"):
        assert admin("GET", f"{MODELS}/{name}").status_code == 404


def test_deleting_a_version_deletes_its_files_and_keeps_its_row(admin: Any) -> None:
    admin.publish(1)
    for _ in range(2):
        body = admin("DELETE", f"{MODELS}/tempo-v1").json()
        assert (body["id"], body["object"], body["deleted"]) == ("tempo-v1", "model", True)
    assert admin.context.store.names() == []
    report = admin("GET", "/tempo/v1/adapters/tempo-v1").json()["report"]
    assert report["swept"] == "deleted by request"
    assert admin("POST", "/tempo/v1/adapters/tempo-v1/promote").status_code == 404
    with admin.context.sessions() as s:
        types = [event.type for event in ledger.events.find(s)]
    assert types.count("adapter.deleted") == 1


@pytest.mark.parametrize("name", ["tempo-v01", "tempo-v001", "tempo-v１", "tempo-v1\n", "tempo-t1"])
def test_a_version_has_one_name(admin: Any, name: str) -> None:
    admin.publish(1)
    for method, path in (
        ("DELETE", f"{MODELS}/{name}"),
        ("GET", f"/tempo/v1/adapters/{name}"),
        ("POST", f"/tempo/v1/adapters/{name}/promote"),
    ):
        assert admin(method, path.replace("\n", "%0A")).status_code == 400
    assert admin.serving() == 0
    assert admin.context.store.names() == ["tempo-v1"]


def test_versions_that_are_needed_and_the_base_are_not_deleted(admin: Any) -> None:
    for version in (1, 2, 3, 4):
        admin.publish(version)
    for version in (1, 2):
        admin("POST", f"/tempo/v1/adapters/tempo-v{version}/promote")
    with admin.context.sessions.begin() as s:
        ledger.versions.acknowledge(s, "p", version=2, sequence=2, held=["tempo-v3"])
        job = ledger.jobs.create(s, "ftjob-4", "round", {})
        job.status = "running"  # its gate is about to decide on tempo-v4
    for version in range(5):
        reply = admin("DELETE", f"{MODELS}/tempo-v{version}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict"), version
    assert admin.context.store.names() == [f"tempo-v{version}" for version in (1, 2, 3, 4)]


@pytest.mark.parametrize(("name", "status"), [("tempo-v9", 404), ("tempo", 400)])
def test_only_a_version_that_exists_is_deleted(admin: Any, name: str, status: int) -> None:
    assert admin("DELETE", f"{MODELS}/{name}").status_code == status
