"""Bindings over a store with a fake engine, and a follower of a ledger with fake bindings."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapters import publish_empty_adapter
from ledgers import candidate
from sqlalchemy.orm import Session, sessionmaker

from tempo_server.capture.spool import Counters
from tempo_server.context import Context
from tempo_server.serving.bindings import Binding, Bindings
from tempo_server.serving.follower import Follower
from tempo_server.serving.probe import Finding
from tempo_server.settings import ServerSettings
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.ledger.models import ServerProcess

BASE = "models/tiny"
PASSED = Finding("passed", "vLLM serves what was trained", 160, 0.3, 0.03, 0.99, 1.0)


def context_of(settings: ServerSettings, *, sessions: Any = None, store: Any = None) -> Context:
    """Return a context without the parts that serving does not use."""
    nothing: Any = None
    return Context(
        settings=settings,
        sessions=sessions,
        store=store,
        stream=nothing,
        redis=nothing,
        base=BASE,
        max_lora_rank=16,
    )


# Bindings ----------------------------------------------------------------------------------------


class FakeEngine:
    """Records the names of the adapters that it loads."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.removed: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None
        """Called while the engine reads an adapter's files."""

    async def add_lora(self, request: Any) -> None:
        await asyncio.sleep(0)
        self.loaded.append(request.lora_name)
        self.meanwhile()

    async def remove_lora(self, lora_id: int) -> None:
        self.removed.append(lora_id)


class Names:
    """Bindings, the store below them, and vLLM's two tables of names."""

    def __init__(
        self, root: Path, sessions: sessionmaker[Session], *, aliases: tuple[str, ...] = ("tempo",)
    ) -> None:
        self.sessions = sessions
        self.engine = FakeEngine()
        self.store = AdapterStore(root)
        base = SimpleNamespace(name="tiny", model_path=BASE)
        self.models = SimpleNamespace(
            base_model_paths=[base],
            lora_requests={},
            load_lora_adapter=self._update,
            unload_lora_adapter=self._update,
        )
        settings = ServerSettings(data_dir=root, aliases=",".join(aliases))
        context = context_of(settings, sessions=sessions, store=self.store)
        self.updated: list[str] = []
        self.bindings = Bindings(context, self.engine, self.models)

    async def _update(self, request: Any) -> str:
        """Load or unload an operator's own adapter, as vLLM's runtime routes do."""
        self.updated.append(request.lora_name)
        return "Success"

    def publish(self, *names: str, base: str = BASE, rank: int = 8) -> None:
        """Put adapters into the store."""
        for name in names:
            manifest = publish_empty_adapter(self.store, name, base=base, rank=rank)
            with self.sessions.begin() as s:
                ledger.published.add(s, manifest)

    def bind(self, model: str | None, *, is_admin: bool = False) -> Binding | None:
        """Return the binding of a request that has ended at once."""

        async def request() -> Binding | None:
            async with self.bindings.bind(model, is_admin=is_admin) as binding:
                return binding

        return asyncio.run(request())

    def serve(self, version: int, *, previous: int = 0) -> None:
        asyncio.run(self.bindings.serve(version, previous=previous))

    def answerer(self, model: str | None, *, is_admin: bool = False) -> str | None:
        """Return the adapter, or `base`, with which vLLM answers a request; None for its 404."""
        binding = self.bind(model, is_admin=is_admin)
        return self.look_up(binding.key if binding else model)

    def look_up(self, key: str | None) -> str | None:
        """Look a name up as vLLM does."""
        if key in self.models.lora_requests:
            return str(self.models.lora_requests[key].lora_name)
        return "base" if key in [path.name for path in self.models.base_model_paths] else None


@pytest.fixture
def names(tmp_path: Path, sessions: sessionmaker[Session]) -> Names:
    """Bindings whose store has three versions and a trial."""
    names = Names(tmp_path, sessions)
    names.publish("tempo-v1", "tempo-v2", "tempo-v3", "tempo-t1")
    return names


@pytest.fixture
def make_names(sessions: sessionmaker[Session]) -> Any:
    """A function that makes `names`, for a test that needs other aliases."""
    return lambda root, **options: Names(root, sessions, **options)


# The follower ------------------------------------------------------------------------------------


class FakeProbe:
    """Returns the findings that a test sets, after a while; records the adapters it probed."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.probed: list[str] = []
        self.seconds = 0.0

    async def run(self, name: str, request: Any) -> Finding:
        self.probed.append(name)
        await asyncio.sleep(self.seconds)
        return self.findings.get(name, PASSED)


class FakeBindings:
    """Serves every version, except for those with an error; records the attempts."""

    def __init__(self) -> None:
        self.serving = 0
        self.previous = 0
        self.loaded: dict[str, object] = {}
        self.errors: dict[int, Exception] = {}
        self.attempts: list[int] = []

    def held(self) -> list[str]:
        return ["tempo-v0"]

    async def check_files(self) -> None:
        pass

    async def load(self, name: str) -> object:
        return self.loaded.setdefault(name, object())

    async def serve(self, version: int, *, previous: int) -> None:
        self.attempts.append(version)
        if version in self.errors:
            raise self.errors[version]
        self.serving = version
        self.previous = previous


class Followed:
    """A ledger with three candidates, and a follower of its serving pointer."""

    def __init__(self, root: Path, sessions: sessionmaker[Session]) -> None:
        self.settings = ServerSettings(data_dir=root, poll_seconds=0.05)
        self.sessions = sessions
        with sessions.begin() as s:
            s.add_all(candidate(version) for version in (1, 2, 3))
        self.bindings: Any = FakeBindings()
        self.probe: Any = FakeProbe()
        self.context = self.context_with(sessions)
        self.follower = self.new_follower()

    def new_follower(self) -> Follower:
        """Return the follower of a process that has just started."""
        return Follower(self.context, self.bindings, self.probe, Counters(captured=3))

    def context_with(self, sessions: Any) -> Context:
        return context_of(self.settings, sessions=sessions)

    def promote(self, version: int) -> None:
        with self.sessions.begin() as s:
            ledger.versions.promote(s, version)

    def poll(self) -> None:
        asyncio.run(self.follower.poll())

    def process(self) -> ServerProcess:
        """Return the row in which the follower has acknowledged."""
        with self.sessions() as s:
            (row,) = ledger.versions.processes(s)
            return row

    def acknowledged(self) -> tuple[int, int, str | None]:
        """Return the version, the sequence and the error that the follower has acknowledged."""
        row = self.process()
        return row.version, row.sequence, row.error

    def errors(self) -> list[tuple[str, str]]:
        """Return type and message of each event of level error."""
        with self.sessions() as s:
            return [(e.type, e.message) for e in ledger.events.find(s) if e.level == "error"]

    def status(self, version: int) -> str:
        with self.sessions() as s:
            return ledger.versions.adapter(s, version).status

    def reported_probe(self, version: int) -> dict[str, Any]:
        with self.sessions() as s:
            probe: dict[str, Any] = ledger.versions.adapter(s, version).report["probe"]
        return probe


@pytest.fixture
def followed(tmp_path: Path, sessions: sessionmaker[Session]) -> Followed:
    return Followed(tmp_path, sessions)
