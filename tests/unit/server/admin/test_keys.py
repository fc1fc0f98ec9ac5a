"""Admin keys: each can do at most what its creator can, is shown once, and can be revoked."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tempo_server import keys
from tempo_storage import ledger
from tempo_storage.errors import SettingsError
from tempo_storage.ledger.models import Key

KEYS = "/tempo/v1/keys"
STATUS = "/tempo/v1/status"


def create(admin: Any, name: str = "ci", *scopes: str, key: str = "") -> Any:
    return admin("POST", KEYS, json={"name": name, "scopes": scopes}, headers=header(admin, key))


def header(admin: Any, key: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {key or admin.key}"}


def names(admin: Any) -> list[str]:
    return [key["name"] for key in admin("GET", KEYS).json()["data"]]


def test_a_key_is_shown_once_and_only_its_hash_is_stored(admin: Any) -> None:
    reply = create(admin, "ci", "promote", "train", "train")
    assert reply.status_code == 200
    key = reply.json()
    digest = hashlib.sha256(key["key"].encode()).hexdigest()
    assert key["key"].startswith("tk_")
    assert len(key["key"]) > 40
    assert (key["id"], key["name"]) == (digest[:12], "ci")
    assert key["scopes"] == ["train", "promote"]
    listed = admin("GET", KEYS)
    assert listed.json()["data"][0] == key | {"key": ""}
    assert key["key"] not in listed.text
    database = Path(admin.context.sessions.kw["bind"].url.database)
    for file in database.parent.glob(f"{database.name}*"):
        assert key["key"].encode() not in file.read_bytes()


def test_a_key_without_scopes_only_reads(admin: Any) -> None:
    key = admin("POST", KEYS, json={"name": "grafana"}).json()
    reader = header(admin, key["key"])
    assert key["scopes"] == ["read"]
    assert admin("GET", STATUS, headers=reader).status_code == 200
    assert admin("POST", "/tempo/v1/training/pause", headers=reader).status_code == 403
    assert create(admin, "other", key=key["key"]).status_code == 403
    assert admin("DELETE", f"{KEYS}/{key['id']}", headers=reader).status_code == 403


def test_a_key_cannot_grant_a_scope_that_it_lacks(admin: Any) -> None:
    promoter = create(admin, "promoter", "promote", "keys").json()["key"]
    reply = create(admin, "trainer", "promote", "train", key=promoter)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")
    assert "scope 'train'" in reply.json()["error"]["message"]
    assert names(admin) == ["promoter", "admin"]
    assert create(admin, "second", "promote", key=promoter).status_code == 200


def test_a_key_that_another_process_just_revoked_cannot_create_another(admin: Any) -> None:
    key = create(admin, "ci", "keys").json()
    with admin.context.sessions.begin() as s:
        s.delete(ledger.keys.get(s, key["id"]))
    assert keys.digest(key["key"]) in admin.context.keys  # until the next poll
    assert create(admin, "heir", "keys", key=key["key"]).status_code == 401
    assert names(admin) == ["admin"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "ci", "scopes": ["tain"]}, ("scopes.0", "'train'", "'promote'")),
        ({"name": "ci", "scopes": [""]}, ("scopes.0",)),
        ({"name": "ci", "scopes": "train"}, ("scopes",)),
        ({"name": "ci", "scope": "train"}, ("scope",)),
        ({"name": ""}, ("name",)),
        ({"name": "two\tcells"}, ("name",)),
        ({"name": "n" * 65}, ("name",)),
        ({}, ("name",)),
    ],
)
def test_a_malformed_key_is_refused_and_the_message_names_the_field(
    admin: Any, body: dict[str, Any], words: tuple[str, ...]
) -> None:
    reply = admin("POST", KEYS, json=body)
    assert reply.status_code == 400
    assert all(word in reply.json()["error"]["message"] for word in words)
    assert names(admin) == ["admin"]


@pytest.mark.parametrize("name", ["admin", "ci"])
def test_two_keys_cannot_have_the_same_name(admin: Any, name: str) -> None:
    create(admin, "ci")
    reply = create(admin, name)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")
    assert repr(name) in reply.json()["error"]["message"]


def test_of_four_requests_for_a_key_at_once_one_is_met(admin: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: create(admin).status_code, range(4)))
    assert sorted(replies) == [200, 409, 409, 409]


def test_there_are_never_more_than_a_hundred_keys(admin: Any) -> None:
    with admin.context.sessions.begin() as s:
        s.add_all(Key(sha256=f"{n:064}", name=f"k{n}", scopes=[]) for n in range(98))
    last = create(admin, "last").json()
    reply = create(admin, "one-more")
    assert reply.status_code == 409
    assert "100 keys" in reply.json()["error"]["message"]
    admin("DELETE", f"{KEYS}/{last['id']}")
    assert create(admin, "one-more").status_code == 200


def test_a_revoked_key_opens_nothing_and_frees_its_name(admin: Any) -> None:
    key = create(admin, "ci", "read").json()
    headers = header(admin, key["key"])
    assert admin("GET", STATUS, headers=headers).status_code == 200
    reply = admin("DELETE", f"{KEYS}/{key['id']}")
    assert (reply.status_code, reply.json()["id"]) == (200, key["id"])
    assert admin("GET", STATUS, headers=headers).status_code == 401
    assert names(admin) == ["admin"]
    assert admin("DELETE", f"{KEYS}/{key['id']}").status_code == 404
    assert create(admin, "ci").status_code == 200  # its name is free again


@pytest.mark.parametrize("key_id", ["none", "%25", "0"])
def test_the_id_of_a_key_is_no_pattern(admin: Any, key_id: str) -> None:
    with admin.context.sessions.begin() as s:
        s.add(Key(sha256="0" * 64, name="zero", scopes=[]))
    assert admin("DELETE", f"{KEYS}/{key_id}").status_code == 404
    assert names(admin) == ["zero", "admin"]


def test_the_key_in_admin_key_can_be_revoked_by_the_remedy_in_the_refusal(admin: Any) -> None:
    path = admin.context.settings.admin_key_path
    old = admin.key
    first = f"{KEYS}/{hashlib.sha256(old.encode()).hexdigest()[:12]}"
    reply = admin("DELETE", first)
    assert reply.status_code == 409
    assert f"the key in {path}" in reply.json()["error"]["message"]
    assert "delete that file, restart" in reply.json()["error"]["message"]
    path.unlink()
    keys.ensure_admin_key(admin.context)  # as a restart does
    admin.key = path.read_text().strip()
    assert admin("DELETE", first).status_code == 200
    assert admin("GET", STATUS, headers=header(admin, old)).status_code == 401
    assert admin("GET", STATUS).status_code == 200


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_admin_key_stops_the_start_and_opens_nothing(admin: Any, content: str) -> None:
    context = admin.app.state.tempo
    context.settings.admin_key_path.write_text(content)
    with pytest.raises(SettingsError, match="is empty"):
        keys.ensure_admin_key(context)
    assert not keys.is_workers_key(context, "")


def test_events_record_the_keys_that_were_created_and_revoked(admin: Any) -> None:
    key = create(admin, "ci", "train").json()
    admin("DELETE", f"{KEYS}/{key['id']}")
    with admin.context.sessions() as s:
        events = [(event.type, event.message) for event in ledger.events.find(s)]
    assert events == [
        ("key.created", f"key {key['id']} (ci) was created; it may train"),
        ("key.revoked", f"key {key['id']} (ci) was revoked"),
    ]
