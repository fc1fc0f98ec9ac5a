"""The digests of published files: kept with the version, adopted once for an old ledger's."""

import json
from pathlib import Path

import pytest
from adapters import WEIGHTS, flip_a_byte, publish_empty_adapter
from ledgers import candidate, opened
from old_ledgers import create
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.ledger.engine import connect
from tempo_storage.ledger.models import PublishedAdapter


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def old_version(
    sessions: sessionmaker[Session], store: AdapterStore, *, sha256: str | None = None
) -> None:
    """Let version 1 be one that was published before the ledger kept digests."""
    manifest = publish_empty_adapter(store, "tempo-v1", base="m")
    with sessions.begin() as s:
        s.add(candidate(1, sha256=manifest.sha256[WEIGHTS] if sha256 is None else sha256))
        s.flush()
        ledger.versions.promote(s, 1)
        s.add(PublishedAdapter(name="tempo-v1", files={}))


def adopted(sessions: sessionmaker[Session], store: AdapterStore) -> tuple[bool, str, list[str]]:
    """Adopt; return whether version 1 has digests now, its status, and the types of events."""
    with sessions.begin() as s:
        ledger.published.adopt(s, store)
    with sessions() as s:
        files = ledger.published.files(s, "tempo-v1")
        types = [event.type for event in ledger.events.find(s)][1:]
        return bool(files), ledger.versions.adapter(s, 1).status, types


@pytest.mark.parametrize("sha256", [None, ""])
def test_an_old_version_whose_files_fit_its_manifest_gets_digests_once_and_an_event_says_so(
    sessions: sessionmaker[Session], store: AdapterStore, sha256: str | None
) -> None:
    old_version(sessions, store, sha256=sha256)
    for _ in range(2):
        assert adopted(sessions, store) == (True, "serving", ["adapter.adopted"])
    with sessions() as s:
        files = ledger.published.files(s, "tempo-v1")
        assert files == store.digests("tempo-v1")
        store.verify("tempo-v1", files, base="m", rank=8)


def test_the_manifest_of_version_0_1_is_adopted_as_it_is(
    sessions: sessionmaker[Session], store: AdapterStore
) -> None:
    old_version(sessions, store)
    path = store.path("tempo-v1") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"info": {"step": 3}}))
    assert adopted(sessions, store)[0]


@pytest.mark.parametrize("change", ["weights", "added", "manifest", "other weights", "config"])
def test_an_old_version_whose_files_do_not_fit_is_corrupt_and_the_one_before_it_serves(
    sessions: sessionmaker[Session], store: AdapterStore, change: str
) -> None:
    old_version(sessions, store, sha256="ab" if change == "other weights" else None)
    directory = store.path("tempo-v1")
    if change in ("weights", "config"):
        flip_a_byte(directory / (WEIGHTS if change == "weights" else "adapter_config.json"))
    if change == "added":
        (directory / "more.bin").write_text("x")
    if change == "manifest":
        (directory / "manifest.json").write_text("{")
    has_digests, status, events = adopted(sessions, store)
    assert (has_digests, status) == (False, "corrupt")
    assert events[0] == "adapter.corrupt"
    with sessions() as s:
        assert ledger.versions.serving(s).version == 0


def test_an_old_version_whose_directory_is_late_waits_for_the_next_start(
    sessions: sessionmaker[Session], store: AdapterStore
) -> None:
    old_version(sessions, store)
    elsewhere = AdapterStore(store.root.parent / "not mounted")
    assert adopted(sessions, elsewhere) == (False, "serving", [])
    assert adopted(sessions, store) == (True, "serving", ["adapter.adopted"])


def test_only_versions_of_an_old_ledger_can_be_adopted(
    sessions: sessionmaker[Session], store: AdapterStore
) -> None:
    publish_empty_adapter(store, "tempo-v1", base="m")
    with sessions.begin() as s:
        s.add(candidate(1))
    assert adopted(sessions, store)[0] is False


def test_the_migration_marks_the_versions_that_may_serve(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = connect(url)
    create(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE adapters SET status = 'corrupt' WHERE version = 3"))
    engine.dispose()
    with opened(url) as sessions, sessions() as s:
        # Version 1 is swept, and version 3 corrupt.
        assert [(r.name, r.files) for r in s.query(PublishedAdapter)] == [("tempo-v2", {})]


def test_trials_that_are_gone_are_forgotten_and_versions_are_not(
    sessions: sessionmaker[Session], store: AdapterStore
) -> None:
    names = ["tempo-t1", "tempo-t2", "tempo-v1"]
    with sessions.begin() as s:
        for name in names:
            ledger.published.add(s, publish_empty_adapter(store, name, base="m"))
        ledger.published.keep_trials(s, ["tempo-t2"])
        assert [bool(ledger.published.files(s, name)) for name in names] == [False, True, True]
