"""A replaced or added file is refused, an event says so, and the version before it serves."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapters import WEIGHTS, flip_a_byte
from ledgers import candidate
from sqlalchemy.orm import Session, sessionmaker

from tempo_server.capture.spool import Counters
from tempo_server.serving.bindings import LOADS
from tempo_server.serving.follower import Follower
from tempo_server.serving.probe import Finding
from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import CorruptAdapterError
from tempo_storage.ledger.models import PublishedAdapter

PASSED = Finding("passed", "vLLM serves what was trained", 160, 0.3, 0.03, 0.99, 1.0)


class Server:
    """A follower with the real bindings on three versions; 1 was promoted, then 2."""

    def __init__(self, names: Any, sessions: sessionmaker[Session]) -> None:
        self.names = names
        self.sessions = sessions
        with sessions.begin() as s:
            s.add_all([candidate(version) for version in (1, 2, 3)])
            s.flush()
            ledger.versions.promote(s, 1)
            ledger.versions.promote(s, 2)
        self.follower = Follower(names.bindings.context, names.bindings, self, Counters())
        asyncio.run(self.follower.restore())

    async def run(self, name: str, request: Any) -> Finding:
        """Stand for the probe."""
        return PASSED

    def poll(self) -> None:
        asyncio.run(self.follower.poll())

    def path(self, version: int) -> Path:
        path: Path = self.names.store.path(f"tempo-v{version}")
        return path

    def events(self) -> list[tuple[str, str]]:
        with self.sessions() as s:
            found = ledger.events.find(s)
        return [(e.type, e.message.split(" is ")[0]) for e in found if e.level == "error"]

    def statuses(self) -> list[str]:
        with self.sessions() as s:
            return [ledger.versions.adapter(s, version).status for version in (1, 2, 3)]


@pytest.fixture
def server(names: Any, sessions: sessionmaker[Session]) -> Server:
    return Server(names, sessions)


def replace(server: Server, version: int, *, by: int) -> None:
    """Put another version, which is whole, into a version's directory."""
    path = server.path(version)
    shutil.rmtree(path)
    shutil.copytree(server.path(by), path)
    (path / "manifest.json").write_text(
        (path / "manifest.json").read_text().replace(f"tempo-v{by}", f"tempo-v{version}")
    )
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes() + b" ")


@pytest.mark.parametrize("change", ["a byte", "a file more", "all files"])
def test_a_change_of_the_serving_version_s_files_is_noticed_and_the_one_before_it_serves(
    server: Server, change: str
) -> None:
    assert server.names.answerer("tempo") == "tempo-v2"
    if change == "a byte":
        flip_a_byte(server.path(2) / WEIGHTS)
    elif change == "a file more":
        (server.path(2) / "adapter_model.bin").write_text("x")
    else:
        replace(server, 2, by=3)
    server.poll()
    assert server.names.answerer("tempo") == "tempo-v1"
    assert server.statuses() == ["serving", "corrupt", "candidate"]
    ((kind, _),) = server.events()
    assert kind == "adapter.corrupt"
    server.poll()
    assert len(server.events()) == 1
    assert server.names.bindings.held() == ["tempo-v0", "tempo-v1"]


def test_a_restart_refuses_changed_files_and_serves_the_version_before(
    server: Server, make_names: Any, tmp_path: Path
) -> None:
    replace(server, 2, by=3)
    restarted = make_names(tmp_path)
    follower = Follower(restarted.bindings.context, restarted.bindings, server, Counters())
    asyncio.run(follower.restore())
    assert restarted.answerer("tempo") == "tempo-v1"
    assert restarted.engine.loaded == ["tempo-v1"]
    assert server.events()[0][0] == "adapter.corrupt"


def test_if_the_version_before_is_changed_too_the_base_serves(server: Server) -> None:
    for version in (1, 2):
        flip_a_byte(server.path(version) / WEIGHTS)
    for _ in range(2):
        server.poll()
    assert server.names.answerer("tempo") == "base"
    assert server.statuses()[:2] == ["corrupt", "corrupt"]


def test_other_rights_or_times_of_the_same_files_are_no_change(server: Server) -> None:
    (server.path(2) / WEIGHTS).chmod(0o640)
    (server.path(2) / WEIGHTS).touch()
    for _ in range(2):
        server.poll()
    assert server.names.answerer("tempo") == "tempo-v2"
    assert server.events() == []


def test_a_changed_trial_is_refused_and_an_event_says_so(server: Server) -> None:
    assert server.names.answerer("tempo-t1", is_admin=True) == "tempo-t1"
    flip_a_byte(server.names.store.path("tempo-t1") / WEIGHTS)
    server.poll()
    with pytest.raises(CorruptAdapterError, match="tempo-t1"):
        server.names.bind("tempo-t1", is_admin=True)
    assert {kind for kind, _ in server.events()} == {"adapter.corrupt"}
    assert server.names.answerer("tempo") == "tempo-v2"


def test_a_directory_that_the_ledger_does_not_know_is_refused(
    server: Server, tmp_path: Path
) -> None:
    shutil.copytree(server.path(1), server.path(1).with_name("tempo-t9"))
    with pytest.raises(CorruptAdapterError):
        server.names.bind("tempo-t9", is_admin=True)
    assert "tempo-t9" not in server.names.engine.loaded


def test_an_old_version_whose_directory_came_late_is_adopted_when_it_is_loaded(
    server: Server,
) -> None:
    with server.sessions.begin() as s:
        s.merge(PublishedAdapter(name="tempo-v3", files={}))
    assert server.names.answerer("tempo-v3", is_admin=True) == "tempo-v3"
    with server.sessions() as s:
        assert ledger.published.files(s, "tempo-v3")


def test_files_that_are_swapped_while_vllm_reads_them_are_refused(server: Server) -> None:
    engine = server.names.engine
    engine.meanwhile = lambda: (server.path(3) / WEIGHTS).touch()
    with pytest.raises(CorruptAdapterError, match="change while vLLM reads them"):
        server.names.bind("tempo-v3", is_admin=True)
    assert len(engine.removed) == LOADS
    engine.meanwhile = lambda: None
    assert server.names.answerer("tempo-v3", is_admin=True) == "tempo-v3"


def test_a_directory_that_is_gone_changes_nothing_while_the_version_is_loaded(
    server: Server,
) -> None:
    store: AdapterStore = server.names.store
    store.remove("tempo-v2")
    server.poll()
    assert server.names.answerer("tempo") == "tempo-v2"


@pytest.mark.parametrize("entry", ["a file", "a link to nothing"])
def test_an_entry_that_is_no_directory_does_not_stop_the_following(
    server: Server, entry: str
) -> None:
    path = server.path(2)
    shutil.rmtree(path)
    if entry == "a file":
        path.write_text("x")
    else:
        path.symlink_to("nowhere")
    with server.sessions.begin() as s:
        ledger.versions.promote(s, 3)
    server.poll()
    assert server.names.answerer("tempo") == "tempo-v3"


def test_files_that_nobody_may_list_are_changed_files(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may list all files, so the refusal is the file system's only in part."""
    directory = server.path(2)
    listed = Path.iterdir

    def refuse(path: Path) -> Any:
        if path == directory:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    server.poll()
    assert server.names.answerer("tempo") == "tempo-v1"
    assert server.statuses() == ["serving", "corrupt", "candidate"]


def test_a_trial_that_is_deleted_while_it_is_loaded_is_not_taken_for_a_changed_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.names.answerer("tempo-t1", is_admin=True) == "tempo-t1"
    remove = shutil.rmtree

    def remove_slowly(path: Path, **options: Any) -> None:
        (path / WEIGHTS).unlink(missing_ok=True)
        server.poll()  # a process looks while the directory is half deleted
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    server.names.store.remove("tempo-t1")
    assert server.events() == []
