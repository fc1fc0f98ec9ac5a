"""Keys expire, say when they were last used, and rotate without a gap."""

import time
from typing import Any

import pytest

from tempo_server import keys
from tempo_storage import ledger
from tempo_storage.ledger.models import Key

KEYS = "/tempo/v1/keys"
STATUS = "/tempo/v1/status"


def create(admin: Any, name: str = "ci", *, key: str = "", **body: Any) -> Any:
    body = {"name": name, "scopes": ["read", "keys"]} | body
    return admin("POST", KEYS, json=body, headers=bearer(key or admin.key))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def opens(admin: Any, key: str) -> bool:
    return bool(admin("GET", STATUS, headers=bearer(key)).status_code == 200)


def age(admin: Any, key_id: str, seconds: float) -> None:
    """Let a key be older by these seconds."""
    with admin.context.sessions.begin() as s:
        row = ledger.keys.get(s, key_id)
        row.created_at -= seconds
        row.expires_at = row.expires_at and row.expires_at - seconds
    keys.read_keys(admin.context)


def test_a_key_works_until_it_expires_and_the_refusal_says_when_it_did(admin: Any) -> None:
    made = create(admin, expires_in_seconds=3600).json()
    assert made["expires_at"] == pytest.approx(time.time() + 3600, abs=5)
    assert opens(admin, made["key"])
    age(admin, made["id"], 3601)
    reply = admin("GET", STATUS, headers=bearer(made["key"]))
    assert reply.status_code == 401
    assert f"{made['id']} (ci) expired at" in reply.json()["error"]["message"]
    assert not keys.is_workers_key(admin.context, made["key"])


def test_a_key_gives_no_other_key_a_longer_life_than_its_own(admin: Any) -> None:
    short = create(admin, "short", expires_in_seconds=600).json()
    for name, life in (("a", None), ("b", 86_400), ("c", 60)):
        made = create(admin, name, key=short["key"], expires_in_seconds=life).json()
        assert made["expires_at"] <= short["expires_at"]
    old = admin("POST", f"{KEYS}/{made['id']}/rotate", headers=bearer(short["key"])).json()
    assert old["expires_at"] <= short["expires_at"]
    assert create(admin, "d").json()["expires_at"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"expires_in_seconds": value}
        for value in (0, -1, 59, 2**63, 10**400, 1e400, "90d", True, 90.5)
    ],
)
def test_a_life_out_of_bounds_is_refused_and_the_message_names_the_field(
    admin: Any, body: dict[str, Any]
) -> None:
    content = str(body | {"name": "ci"}).replace("'", '"').replace("True", "true")
    content = content.replace("inf", "1e400")
    json_type = {"content-type": "application/json"}
    reply = admin("POST", KEYS, content=content, headers=json_type)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "expires_in_seconds")


def test_a_rotated_key_works_beside_the_new_one_for_the_stated_grace(admin: Any) -> None:
    old = create(admin, expires_in_seconds=7200).json()
    reply = admin("POST", f"{KEYS}/{old['id']}/rotate", json={"grace_seconds": 600})
    new = reply.json()
    assert (new["name"], new["scopes"]) == (old["name"], old["scopes"])
    assert new["expires_at"] - new["created_at"] == pytest.approx(7200, abs=5)
    assert opens(admin, old["key"])
    assert opens(admin, new["key"])
    listed = {key["id"]: key for key in admin("GET", KEYS).json()["data"]}
    assert listed[old["id"]]["rotated_to"] == new["id"]
    assert listed[old["id"]]["expires_at"] == pytest.approx(time.time() + 600, abs=5)
    age(admin, old["id"], 601)
    assert not opens(admin, old["key"])
    assert opens(admin, new["key"])
    again = admin("POST", f"{KEYS}/{old['id']}/rotate")
    assert (again.status_code, new["id"] in again.text) == (409, True)


def test_a_rotation_gives_nobody_a_scope_that_their_key_lacks(admin: Any) -> None:
    keeper = create(admin, "keeper").json()["key"]
    trainer = create(admin, "trainer", scopes=["train"]).json()["id"]
    reply = admin("POST", f"{KEYS}/{trainer}/rotate", headers=bearer(keeper))
    assert (reply.status_code, "scope 'train'" in reply.text) == (403, True)


def test_the_key_in_admin_key_is_rotated_by_the_remedy_in_the_refusal(admin: Any) -> None:
    first = admin("GET", KEYS).json()["data"][-1]["id"]
    reply = admin("POST", f"{KEYS}/{first}/rotate")
    assert (reply.status_code, "delete that file, restart" in reply.text) == (409, True)


def test_a_key_names_its_last_use(admin: Any) -> None:
    made = create(admin).json()
    assert made["last_used_at"] is None
    with admin.context.sessions() as s:
        assert ledger.keys.get(s, made["id"]).last_used_at is None
    opens(admin, made["key"])
    listed = admin("GET", KEYS).json()["data"][0]
    assert listed["last_used_at"] == pytest.approx(time.time(), abs=5)
    uses = keys.take_uses(admin.context)
    with admin.context.sessions.begin() as s:
        ledger.keys.record_uses(s, uses)
        first = s.get_one(Key, keys.digest(made["key"])).last_used_at
        ledger.keys.record_uses(s, {digest: at + 1 for digest, at in uses.items()})
        assert (
            s.get_one(Key, keys.digest(made["key"]), populate_existing=True).last_used_at == first
        )
    assert keys.take_uses(admin.context) == {}
    assert admin("GET", KEYS).json()["data"][0]["last_used_at"] == int(first or 0)


def test_a_refused_key_counts_as_no_use(admin: Any) -> None:
    made = create(admin, scopes=["train"]).json()
    assert not opens(admin, made["key"])
    assert keys.digest(made["key"]) not in admin.context.key_uses


def test_a_key_that_expired_a_month_ago_leaves_the_list(admin: Any) -> None:
    made = create(admin, expires_in_seconds=60).json()
    age(admin, made["id"], 29 * 86_400)
    create(admin, "b")
    assert made["id"] in admin("GET", KEYS).text
    age(admin, made["id"], 2 * 86_400)
    create(admin, "c")
    assert made["id"] not in admin("GET", KEYS).text
