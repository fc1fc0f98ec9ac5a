"""The follower probes each load; while that takes its time, the process stays alive and current."""

import asyncio
from typing import Any

from sqlalchemy import delete

from tempo_server.serving.probe import Finding
from tempo_storage import ledger
from tempo_storage.ledger.models import Key

FAILED = Finding("failed", "vLLM does not serve what was trained", 160, 0.3, 0.03, 0.1, 0.0)
MISMATCH = Finding("mismatch", "vLLM's base is not the trainer's", 160, 0.3, 3.0, 0.1, 0.0)
UNPROVEN = Finding("unproven", "it has no probe.json")


def set_keys(followed: Any, *names: str) -> None:
    """Let the ledger have these keys and no other, as if another process had made them."""
    with followed.sessions.begin() as s:
        s.execute(delete(Key))
        s.add_all(Key(sha256=name, name=name, scopes=["train"]) for name in names)


async def start_probing(followed: Any) -> asyncio.Task[None]:
    """Start a poll; return its task when it probes the version that the pointer names."""
    probes = len(followed.probe.probed)
    poll = asyncio.create_task(followed.follower.poll())
    while len(followed.probe.probed) == probes:
        await asyncio.sleep(0.01)
    return poll


# The probe ---------------------------------------------------------------------------------------


def test_a_version_that_fails_its_probe_is_corrupt_and_the_old_one_goes_on_serving(
    followed: Any,
) -> None:
    followed.promote(1)
    followed.poll()
    followed.probe.findings["tempo-v2"] = FAILED
    followed.promote(2)
    for _ in range(3):
        followed.poll()
    assert followed.probe.probed == ["tempo-v1", "tempo-v2"]
    assert followed.bindings.attempts == [1, 1]
    assert followed.acknowledged() == (1, 3, None)  # the pointer has returned to version 1
    ((type_, message),) = followed.errors()
    assert type_ == "adapter.corrupt"
    assert message.startswith("tempo-v2: vLLM does not serve what was trained; promote another")
    assert followed.status(2) == "corrupt"
    assert followed.reported_probe(2)["correlation"] == 0.1


def test_a_server_with_another_base_refuses_versions_but_condemns_none(followed: Any) -> None:
    followed.probe.findings = {"tempo-v1": MISMATCH, "tempo-v2": MISMATCH}
    for version in (1, 2):
        followed.promote(version)
        followed.poll()
        followed.poll()
    message = (
        "tempo-v2: vLLM's base is not the trainer's; restart vLLM with the model files and the "
        "precision with which the worker trains"
    )
    assert followed.acknowledged() == (0, 2, message)
    assert [type_ for type_, _ in followed.errors()] == ["adapter.refused", "adapter.refused"]
    assert (followed.status(1), followed.status(2)) == ("retired", "serving")
    assert followed.reported_probe(2)["verdict"] == "mismatch"


def test_a_start_with_another_base_serves_the_base_and_condemns_no_version(followed: Any) -> None:
    followed.probe.findings = {"tempo-v1": MISMATCH, "tempo-v2": MISMATCH}
    followed.promote(1)
    followed.promote(2)
    asyncio.run(followed.follower.restore())
    assert followed.bindings.serving == 0
    assert (followed.status(1), followed.status(2)) == ("retired", "serving")
    followed.probe.findings.clear()  # the operator starts the server with the right base
    asyncio.run(followed.new_follower().restore())
    assert followed.bindings.serving == 2


def test_findings_are_reported_and_an_unproven_version_is_an_event(followed: Any) -> None:
    followed.probe.findings["tempo-v2"] = UNPROVEN
    for version in (1, 2):
        followed.promote(version)
        followed.poll()
    first = followed.reported_probe(1)
    second = followed.reported_probe(2)
    assert (first["verdict"], first["slope"]) == ("passed", 1.0)
    assert (second["verdict"], second["slope"]) == ("unproven", None)
    with followed.sessions() as s:
        (event,) = [e for e in ledger.events.find(s) if e.type == "adapter.unproven"]
    assert event.message == "tempo-v2 serves unproven: it has no probe.json"


def test_each_load_of_a_version_is_probed_once(followed: Any) -> None:
    for version in (1, 2, 1, 0):
        followed.promote(version)
        followed.poll()
    assert followed.probe.probed == ["tempo-v1", "tempo-v2"]
    followed.bindings.loaded.clear()
    followed.promote(2)
    followed.poll()
    assert followed.probe.probed == ["tempo-v1", "tempo-v2", "tempo-v2"]


# While a probe runs ------------------------------------------------------------------------------


def test_a_process_goes_on_acknowledging_while_it_probes(followed: Any) -> None:
    followed.promote(1)
    followed.poll()
    followed.probe.seconds = 1.0
    followed.promote(2)
    rows = []

    async def watch() -> None:
        poll = asyncio.create_task(followed.follower.poll())
        while not poll.done():
            await asyncio.sleep(0.05)
            rows.append(followed.process())
        await poll

    asyncio.run(watch())
    assert {(row.version, row.sequence) for row in rows} == {(1, 1), (2, 2)}
    assert len({row.seen_at for row in rows}) > 3


def test_a_rollback_does_not_wait_for_the_probe_of_the_version_it_leaves(followed: Any) -> None:
    followed.promote(1)
    followed.poll()
    followed.probe.seconds = 30.0
    followed.promote(2)

    async def roll_back() -> None:
        poll = await start_probing(followed)
        followed.promote(1)
        await asyncio.wait_for(poll, 5)
        await followed.follower.poll()

    asyncio.run(roll_back())
    assert followed.bindings.attempts == [1, 1]
    assert followed.acknowledged() == (1, 3, None)


def test_a_key_that_is_revoked_while_a_version_is_probed_opens_nothing_any_more(
    followed: Any,
) -> None:
    set_keys(followed, "a", "b")
    followed.poll()
    followed.probe.seconds = 30.0
    followed.promote(1)

    async def revoke() -> None:
        poll = await start_probing(followed)
        set_keys(followed, "b")
        for _ in range(100):
            await asyncio.sleep(0.05)
            if followed.context.keys.keys() == {"b"}:
                break
        assert not poll.done()
        poll.cancel()

    asyncio.run(revoke())
    assert followed.context.keys.keys() == {"b"}


# Keys --------------------------------------------------------------------------------------------


def test_keys_that_another_process_made_or_revoked_are_known_from_the_next_poll_on(
    followed: Any,
) -> None:
    set_keys(followed, "a", "b")
    followed.poll()
    assert {a: key.scopes for a, key in followed.context.keys.items()} == {
        "a": {"train"},
        "b": {"train"},
    }
    set_keys(followed, "b", "c")
    followed.poll()
    assert followed.context.keys.keys() == {"b", "c"}


def test_the_follower_writes_when_a_key_was_last_used(followed: Any) -> None:
    set_keys(followed, "a")
    followed.poll()
    followed.context.key_uses["a"] = 1234.0
    followed.poll()
    with followed.context.sessions() as s:
        assert [key.last_used_at for key in ledger.keys.find(s)] == [1234.0]
    assert followed.context.key_uses == {}
