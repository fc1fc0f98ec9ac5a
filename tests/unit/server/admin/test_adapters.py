"""The adapters' routes: list, promote, roll back."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from tempo_server.admin import adapters
from tempo_storage import ledger

ADAPTERS = "/tempo/v1/adapters"


def promote(admin: Any, version: int, **body: Any) -> Any:
    return admin("POST", f"{ADAPTERS}/tempo-v{version}/promote", json=body)


def acknowledge(admin: Any, *, version: int, sequence: int, process: str = "p") -> None:
    with admin.context.sessions.begin() as s:
        ledger.versions.acknowledge(s, process, version=version, sequence=sequence)


def test_the_list_of_versions_ends_with_the_base(admin: Any) -> None:
    admin.publish(1)
    admin.publish(2, "rejected")
    data = admin("GET", ADAPTERS).json()["data"]
    assert [(a["id"], a["status"]) for a in data] == [
        ("tempo-v2", "rejected"),
        ("tempo-v1", "candidate"),
        ("tempo-v0", "serving"),
    ]
    assert admin("GET", f"{ADAPTERS}/tempo-v1").json() == data[1]
    assert admin("GET", f"{ADAPTERS}/tempo-v0").json() == data[2]
    assert admin("GET", f"{ADAPTERS}/tempo-v7").status_code == 404
    assert admin("GET", f"{ADAPTERS}/..%2f..%2fetc").status_code in (400, 404)


def test_a_promotion_moves_the_serving_pointer(admin: Any) -> None:
    admin.publish(1)
    reply = promote(admin, 1, expected_current="tempo-v0", reason="looks good")
    assert reply.status_code == 200
    body = reply.json()
    assert (body["id"], body["status"], body["unacknowledged"]) == ("tempo-v1", "serving", [])
    assert admin.serving() == 1
    assert admin("GET", f"{ADAPTERS}/tempo-v0").json()["status"] == "retired"


def test_a_promotion_is_refused_if_another_version_serves_than_expected(admin: Any) -> None:
    admin.publish(1)
    reply = promote(admin, 1, expected_current="tempo-v5")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")
    assert admin.serving() == 0


def test_a_rejected_version_is_promoted_only_by_force(admin: Any) -> None:
    admin.publish(1, "rejected")
    reply = promote(admin, 1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "gate_failed")
    assert "force=true" in reply.json()["error"]["message"]
    reply = promote(admin, 1, force=True, reason="I know better")
    assert reply.json()["report"] == {"gate": "none", "forced": "I know better"}


def test_a_version_with_damaged_files_is_marked_corrupt_and_not_promoted(admin: Any) -> None:
    admin.publish(1)
    path = admin.context.store.path("tempo-v1") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes() + b"!")
    for _ in range(2):
        reply = promote(admin, 1, force=True)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "corrupt_adapter")
    assert admin("GET", f"{ADAPTERS}/tempo-v1").json()["status"] == "corrupt"
    assert admin.serving() == 0


@pytest.mark.parametrize("changes", [{"base": "another"}, {"rank": 32}])
def test_an_adapter_of_another_base_or_a_higher_rank_is_refused_but_not_called_corrupt(
    admin: Any, changes: dict[str, Any]
) -> None:
    admin.publish(1, **changes)
    reply = promote(admin, 1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "adapter_mismatch")
    assert admin("GET", f"{ADAPTERS}/tempo-v1").json()["status"] == "candidate"


def test_the_rank_that_counts_is_vllm_s_own_not_the_setting_s(admin: Any) -> None:
    admin.app.state.tempo = replace(admin.context, max_lora_rank=64)
    assert admin.context.settings.lora_rank == 16
    admin.publish(1, rank=64)
    assert promote(admin, 1).status_code == 200


def test_a_promotion_waits_until_the_processes_follow(admin: Any) -> None:
    admin.publish(1)
    acknowledge(admin, version=0, sequence=0)
    later = threading.Timer(0.5, acknowledge, [admin], {"version": 1, "sequence": 1})
    later.start()
    assert promote(admin, 1).json()["unacknowledged"] == []
    later.join()


def test_a_promotion_names_the_processes_that_do_not_follow(
    admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "FOLLOW_SECONDS", 0.3)
    admin.publish(1)
    acknowledge(admin, version=0, sequence=0, process="slow")
    acknowledge(admin, version=0, sequence=1, process="refuses")
    acknowledge(admin, version=1, sequence=1, process="follows")
    reply = promote(admin, 1)
    assert reply.status_code == 200
    assert sorted(reply.json()["unacknowledged"]) == ["refuses", "slow"]
    assert admin.serving() == 1


def test_a_rollback_returns_to_the_previous_version_a_named_one_or_the_base(admin: Any) -> None:
    for version in (1, 2):
        admin.publish(version)
        promote(admin, version)
    rollback = f"{ADAPTERS}/rollback"
    assert admin("POST", rollback).json()["id"] == "tempo-v1"
    assert admin("POST", rollback, json={"to": "tempo-v2"}).json()["id"] == "tempo-v2"
    assert admin("POST", rollback, json={"to": "base"}).json()["id"] == "tempo-v0"
    assert admin.serving() == 0
    assert admin("POST", rollback, json={"to": "tempo-v9"}).status_code == 404
    assert admin("POST", rollback, json={"to": "yesterday"}).status_code == 400


def test_a_promotion_by_hand_resets_the_number_of_the_gates_tests_but_a_rollback_does_not(
    admin: Any,
) -> None:
    for version in (1, 2):
        admin.publish(version)
        with admin.context.sessions.begin() as s:
            ledger.gate_tests.record(s, f"job {version}", version, promoted=False, held_out="a set")
    assert promote(admin, 2, expected_current="tempo-v1").status_code == 409
    assert num_tests(admin) == 2
    promote(admin, 1)
    assert num_tests(admin) == 0
    with admin.context.sessions.begin() as s:
        ledger.gate_tests.record(s, "another", 2, promoted=False, held_out="a set")
    assert admin("POST", f"{ADAPTERS}/rollback").status_code == 200
    assert num_tests(admin) == 1


def num_tests(admin: Any) -> int:
    with admin.context.sessions() as s:
        return ledger.gate_tests.count(s, "a set")


def test_a_nan_in_a_report_is_shown_as_null(admin: Any) -> None:
    admin.publish(1)
    with admin.context.sessions.begin() as s:
        ledger.versions.adapter(s, 1).report = {"auroc": float("nan"), "n": 3}
    assert admin("GET", f"{ADAPTERS}/tempo-v1").json()["report"] == {"auroc": None, "n": 3}
