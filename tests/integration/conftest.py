"""Fixtures that take a minute to make, so the whole run shares them: a model, Valkey, one vLLM."""

import functools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from adapters import write_lora
from ledgers import candidate
from servers import Server, serving

from tempo_client import Tempo
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore, Manifest, trial_name, version_name

StartServer = Callable[..., AbstractContextManager[Server]]
StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]
MakeAdapter = Callable[..., Manifest]
MakeVersion = Callable[..., int]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A countdown model that gives some right and many wrong answers."""
    from tempo_lab.tasks.base import Recipe, build_base  # torch, for those who need it

    recipe = Recipe(hidden=64, layers=2, heads=2, intermediate=192, steps=200, batch=64)
    return build_base(tmp_path_factory.mktemp("base"), recipe=recipe)


@pytest.fixture(scope="session")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one vLLM that most tests use."""
    with serving(tiny_base, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="session")
def serve() -> StartServer:
    """For a test that needs a server of its own: `with serve(model, data_dir) as server`."""
    return serving


@pytest.fixture
def worker(server: Server) -> StartWorker:
    """Return a context manager that runs a worker process with extra variables."""
    return server.worker


@pytest.fixture
def tempo(server: Server) -> Iterator[Tempo]:
    """An administrator's client of the server."""
    with server.admin() as client:
        yield client


@pytest.fixture(scope="session")
def make_adapter(tiny_base: Path) -> MakeAdapter:
    """Publish a random adapter for the small model: make_adapter(store, name, scale=…, seed=…).

    `then(directory)` may write more files, or change those of the adapter.
    """

    def make(
        store: AdapterStore,
        name: str,
        *,
        scale: float = 0.3,
        seed: int = 0,
        rank: int = 8,
        base: str | None = None,
        then: Callable[[Path], None] = lambda directory: None,
    ) -> Manifest:
        def write(directory: Path) -> None:
            write_lora(directory, tiny_base, scale=scale, seed=seed, rank=rank)
            then(directory)

        return store.publish(name, write, base=base or str(tiny_base))

    return make


@pytest.fixture(scope="session")
def make_version_of(make_adapter: MakeAdapter) -> MakeVersion:
    """Publish a random adapter as a server's next version: make_version_of(server, seed=…)."""

    def make(server: Server, **options: object) -> int:
        with server.sessions.begin() as s:
            version = ledger.versions.next_version(s)
            manifest = make_adapter(server.store, version_name(version), **options)
            s.add(candidate(version, bytes=manifest.bytes))
            ledger.published.add(s, manifest)
        return version

    return make


@pytest.fixture(scope="session")
def make_trial(server: Server, make_adapter: MakeAdapter) -> Callable[..., None]:
    """Publish a random adapter as a trial of the shared server: make_trial(number, seed=…)."""

    def make(number: int, **options: object) -> None:
        manifest = make_adapter(server.store, trial_name(number), **options)
        with server.sessions.begin() as s:
            ledger.published.add(s, manifest)

    return make


@pytest.fixture(scope="session")
def make_version(server: Server, make_version_of: MakeVersion) -> MakeVersion:
    """The same for the shared server: make_version(seed=…)."""
    return functools.partial(make_version_of, server)
