"""The serving pointer is followed, and whatever is wrong with it the old version serves on."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tempo_server.capture.spool import Counters
from tempo_server.context import Context
from tempo_server.serving.follower import Follower
from tempo_server.serving.probe import Finding
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import AdapterMismatchError, CorruptAdapterError, NotFoundError
from tempo_storage.ledger.models import Adapter, Key
from tempo_storage.ledger.sessions import open_database

PASSED = Finding("passed", "vLLM serves what was trained", 160, 0.3, 0.03, 0.99, 1.0)
FAILED = Finding("failed", "vLLM does not serve what was trained", 160, 0.3, 0.03, 0.1, 0.0)
UNPROVEN = Finding("unproven", "it has no probe.json")


class FakeProbe:
    """Finds what it is told, after a while; remembers whom it was asked about."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.asked: list[str] = []
        self.seconds = 0.0

    async def run(self, name: str, request: Any) -> Finding:
        self.asked.append(name)
        await asyncio.sleep(self.seconds)
        return self.findings.get(name, PASSED)


class FakeBindings:
    """Serves what it is told, except what it was made to refuse."""

    def __init__(self) -> None:
        self.serving = self.previous = 0
        self.loaded: dict[str, object] = {}
        self.refuses: dict[int, Exception] = {}
        self.tried: list[int] = []

    def held(self) -> list[str]:
        return ["tempo-v0"]

    async def load(self, name: str) -> object:
        return self.loaded.setdefault(name, object())

    async def serve(self, version: int, *, previous: int) -> None:
        self.tried.append(version)
        if version in self.refuses:
            raise self.refuses[version]
        self.serving, self.previous = version, previous


class World:
    """A ledger with three candidates, and a follower of it."""

    def __init__(self, root: Path) -> None:
        settings = ServerSettings(data_dir=root, poll_seconds=0.05)
        self.sessions = open_database(settings.resolved_database_url)
        with self.sessions.begin() as s:
            s.add_all(adapter(version) for version in (1, 2, 3))
        self.bindings = FakeBindings()
        self.probe = FakeProbe()
        self.follower = self.new_follower(settings, self.sessions)

    def new_follower(self, settings: ServerSettings, sessions: sessionmaker[Session]) -> Follower:
        nothing: Any = None
        context = Context(
            settings=settings,
            sessions=sessions,
            store=AdapterStore(settings.adapters_dir),
            stream=nothing,
            redis=nothing,
            base="tiny",
            counters=Counters(captured=3),
        )
        return Follower(context, self.bindings, self.probe)

    def promote(self, version: int) -> None:
        with self.sessions.begin() as s:
            ledger.versions.promote(s, version)

    def poll(self) -> None:
        asyncio.run(self.follower.poll())

    def acknowledged(self) -> tuple[int, int, str | None, dict[str, Any]]:
        with self.sessions() as s:
            (row,) = ledger.versions.processes(s)
            return row.version, row.sequence, row.error, row.counters

    def set_keys(self, *names: str) -> None:
        """Let these be the keys in the ledger, as if another process had made them."""
        with self.sessions.begin() as s:
            s.execute(delete(Key))
            s.add_all(Key(sha256=name, name=name, scopes=["train"]) for name in names)

    def known_keys(self) -> dict[str, list[str]]:
        return dict(self.follower._context.known_keys)

    def errors(self) -> list[tuple[str, str]]:
        with self.sessions() as s:
            return [(e.type, e.message) for e in ledger.events.find(s) if e.level == "error"]

    def report(self, version: int) -> dict[str, Any]:
        with self.sessions() as s:
            probe: dict[str, Any] = ledger.versions.adapter(s, version).report["probe"]
        return probe

    def status(self, version: int) -> str:
        with self.sessions() as s:
            return ledger.versions.adapter(s, version).status


def adapter(version: int) -> Adapter:
    return Adapter(
        version=version,
        status="candidate",
        parent=0,
        job_id="job_1",
        checkpoint="",
        sha256="",
        bytes=1,
        report={},
        created_at=time.time(),
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_promotion_is_followed_and_acknowledged_with_the_counters(world: World) -> None:
    world.promote(1)
    world.poll()
    assert (world.bindings.serving, world.bindings.previous) == (1, 0)
    assert world.acknowledged()[:3] == (1, 1, None)
    counters = world.acknowledged()[3]
    assert (counters["captured"], counters["held"]) == (3, ["tempo-v0"])


def test_a_start_restores_what_was_promoted(world: World) -> None:
    world.promote(1)
    world.promote(2)
    asyncio.run(world.follower.restore())
    assert (world.bindings.serving, world.bindings.previous) == (2, 1)
    assert world.acknowledged()[:2] == (2, 2)


def test_a_damaged_version_is_marked_and_the_old_one_serves_on(world: World) -> None:
    world.promote(1)
    world.poll()
    world.bindings.refuses[2] = CorruptAdapterError("tempo-v2 is damaged; roll back")
    world.promote(2)
    for _ in range(3):
        world.poll()
    assert world.bindings.tried == [1, 2, 1]  # once: files do not heal
    assert world.acknowledged()[:3] == (1, 3, None)  # it is pointed at again
    assert world.errors() == [("adapter.corrupt", "tempo-v2 is damaged; roll back")]
    assert world.status(2) == "corrupt"


def test_a_refusal_is_over_when_the_base_is_pointed_at_again(world: World) -> None:
    world.bindings.refuses[1] = CorruptAdapterError("tempo-v1 is damaged; roll back")
    world.promote(1)
    world.poll()
    assert world.acknowledged()[:3] == (0, 1, "tempo-v1 is damaged; roll back")
    world.poll()
    assert world.acknowledged()[:3] == (0, 2, None)


@pytest.mark.parametrize(
    "error", [AdapterMismatchError("rank 64; restart"), RuntimeError("vLLM: unexpected modules")]
)
def test_a_version_that_does_not_fit_is_refused_but_not_marked(
    world: World, error: Exception
) -> None:
    world.promote(1)
    world.poll()
    world.bindings.refuses[2] = error
    world.promote(2)
    for _ in range(3):
        world.poll()
    assert world.acknowledged()[:3] == (1, 2, str(error))
    assert world.errors() == [("adapter.refused", str(error))]
    assert world.status(2) == "serving"


def test_a_directory_that_is_late_is_tried_again(world: World) -> None:
    world.bindings.refuses[1] = NotFoundError("no adapter 'tempo-v1'")
    world.promote(1)
    world.poll()
    world.poll()
    assert world.bindings.tried == [1, 1]
    assert len(world.errors()) == 1
    world.bindings.refuses.clear()
    world.poll()
    assert world.acknowledged()[:3] == (1, 1, None)


def test_the_next_promotion_ends_a_refusal(world: World) -> None:
    world.bindings.refuses[1] = CorruptAdapterError("damaged")
    world.promote(1)
    world.poll()
    world.promote(2)
    world.poll()
    assert world.acknowledged()[:3] == (2, 3, None)


def test_a_version_that_fails_its_probe_is_corrupt_and_the_old_one_serves_on(world: World) -> None:
    world.promote(1)
    world.poll()
    world.probe.findings["tempo-v2"] = FAILED
    world.promote(2)
    for _ in range(3):
        world.poll()
    assert world.probe.asked == ["tempo-v1", "tempo-v2"]
    assert world.bindings.tried == [1, 1]
    assert world.acknowledged()[:3] == (1, 3, None)  # it is pointed at again
    ((kind, error),) = world.errors()
    assert kind == "adapter.corrupt"
    assert error.startswith("tempo-v2: vLLM does not serve what was trained; promote another")
    assert world.status(2) == "corrupt"
    assert world.report(2)["correlation"] == 0.1


def test_what_a_probe_finds_is_reported_and_the_unproven_are_counted(world: World) -> None:
    world.probe.findings["tempo-v2"] = UNPROVEN
    for version in (1, 2):
        world.promote(version)
        world.poll()
    assert (world.report(1)["verdict"], world.report(1)["slope"]) == ("passed", 1.0)
    assert (world.report(2)["verdict"], world.report(2)["slope"]) == ("unproven", None)
    assert world.acknowledged()[3]["unproven"] == 1
    with world.sessions() as s:
        (event,) = [e for e in ledger.events.find(s) if e.type == "adapter.unproven"]
    assert event.message == "tempo-v2 serves unproven: it has no probe.json"


def test_a_version_is_probed_once_a_load(world: World) -> None:
    for version in (1, 2, 1, 0):
        world.promote(version)
        world.poll()
    assert world.probe.asked == ["tempo-v1", "tempo-v2"]
    world.bindings.loaded.clear()
    world.promote(2)
    world.poll()
    assert world.probe.asked == ["tempo-v1", "tempo-v2", "tempo-v2"]


def test_a_process_is_alive_while_it_probes(world: World) -> None:
    world.promote(1)
    world.poll()
    world.probe.seconds = 0.3
    world.promote(2)
    seen = []

    async def watch() -> None:
        poll = asyncio.create_task(world.follower.poll())
        while not poll.done():
            await asyncio.sleep(0.05)
            with world.sessions() as s:
                (row,) = ledger.versions.processes(s)
                seen.append((row.version, row.sequence, row.seen_at))
        await poll

    asyncio.run(watch())
    assert {s[:2] for s in seen} == {(1, 1), (2, 2)}
    assert len({s[2] for s in seen}) > 3


def test_a_rollback_does_not_wait_for_the_probe_of_what_it_takes_back(world: World) -> None:
    world.promote(1)
    world.poll()
    world.probe.seconds = 30.0
    world.promote(2)

    async def roll_back() -> None:
        poll = asyncio.create_task(world.follower.poll())
        await asyncio.sleep(0.1)
        world.promote(1)
        await asyncio.wait_for(poll, 5)
        await world.follower.poll()

    asyncio.run(roll_back())
    assert world.bindings.tried == [1, 1]
    assert world.acknowledged()[:3] == (1, 3, None)


def test_keys_that_another_process_makes_or_revokes_are_known_from_the_next_poll_on(
    world: World,
) -> None:
    world.set_keys("a", "b")
    world.poll()
    assert world.known_keys() == {"a": ["train"], "b": ["train"]}
    world.set_keys("b", "c")
    world.poll()
    assert world.known_keys().keys() == {"b", "c"}


def test_a_key_is_revoked_also_while_a_version_is_probed(world: World) -> None:
    world.set_keys("a", "b")
    world.poll()
    world.probe.seconds = 30.0
    world.promote(1)

    async def revoke() -> None:
        poll = asyncio.create_task(world.follower.poll())
        await asyncio.sleep(0.1)
        world.set_keys("b")
        for _ in range(100):
            await asyncio.sleep(0.05)
            if world.known_keys().keys() == {"b"}:
                break
        assert not poll.done()
        poll.cancel()

    asyncio.run(revoke())
    assert world.known_keys().keys() == {"b"}


@pytest.mark.parametrize(("refused", "serves"), [((2,), 1), ((1, 2), 0)])
def test_a_start_with_an_unusable_version_serves_the_previous_one_or_the_base(
    world: World, refused: tuple[int, ...], serves: int
) -> None:
    world.promote(1)
    world.promote(2)
    world.bindings.refuses = {v: CorruptAdapterError(f"tempo-v{v} is damaged") for v in refused}
    asyncio.run(world.follower.restore())
    assert world.bindings.serving == serves
    assert world.acknowledged()[:3] == (serves, 2, "tempo-v2 is damaged")


def test_without_the_database_it_serves_on_and_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.promote(1)
    world.poll()
    is_down = True

    def begin() -> Session:
        if is_down:
            raise OperationalError("select", {}, Exception("gone"))
        return world.sessions()

    monkeypatch.setattr(world.follower, "_context", _with_sessions(world, begin))

    async def run() -> None:
        nonlocal is_down
        task = asyncio.create_task(world.follower.run())
        await asyncio.sleep(0.5)
        is_down = False
        await asyncio.sleep(0.3)
        task.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert world.bindings.serving == 1
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1


def _with_sessions(world: World, begin: Any) -> Any:
    class Sessions:
        def __call__(self) -> Session:
            return begin()

        def begin(self) -> Any:
            begin().close()
            return world.sessions.begin()

    settings = ServerSettings(data_dir=Path("unused"), poll_seconds=0.05)
    return world.new_follower(settings, Sessions())._context
