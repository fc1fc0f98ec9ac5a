"""Files of old versions go; nothing that serves, drains or may be returned to does."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import Adapter
from tempo_storage.ledger.sessions import open_database
from tempo_trainer.learning import checkpoint
from tempo_trainer.versions.sweep import surplus, sweep
from tempo_trainer.worker_settings import WorkerSettings


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Any]:
    """Versions 1 to 8, each promoted over the one before, and an iteration that goes on."""
    sessions = open_database(f"sqlite:///{tmp_path / 'tempo.db'}")
    settings = WorkerSettings(data_dir=tmp_path, versions_kept=4)
    store = AdapterStore(settings.adapters_dir)
    checkpoint.save(settings.checkpoints_dir, "now", {})
    for number in range(1, 9):
        checkpoint.save(settings.checkpoints_dir, f"c{number}", {})
        (store.root / f"tempo-v{number}").mkdir(parents=True)
    with sessions.begin() as s:
        assert ledger.leases.acquire(s, ledger.leases.TRAINER, "me", 60.0) == 1
        for number in range(1, 9):
            row = Adapter(version=number, parent=number - 1, job_id="j", sha256="", bytes=100)
            row.checkpoint, row.status, row.report = f"c{number}", "candidate", {"reason": "fine"}
            s.add(row)
            s.flush()
            ledger.versions.promote(s, number)
    parts = {"sessions": sessions, "settings": settings, "store": store, "epoch": lambda: 1}
    yield SimpleNamespace(**parts)
    sessions.kw["bind"].dispose()


def left(world: Any) -> tuple[list[str], list[str]]:
    kept = sorted(path.name for path in world.settings.checkpoints_dir.iterdir())
    return world.store.names(), kept


def test_the_newest_stay_and_the_rows_of_all(world: Any) -> None:
    sweep(world, keep="now")
    assert left(world) == ([f"tempo-v{n}" for n in (5, 6, 7, 8)], ["c5", "c6", "c7", "c8", "now"])
    with world.sessions() as s:
        rows = {row.version: row for row in ledger.versions.adapters(s)}
    assert rows.keys() == set(range(1, 9))
    assert rows[1].report == {
        "reason": "fine",
        "swept": "beyond 4 versions or 53687091200 bytes",
    }
    assert rows[5].report == {"reason": "fine"}


def test_what_a_process_still_serves_or_answers_with_stays(world: Any) -> None:
    with world.sessions.begin() as s:
        counters = {"held": ["tempo-v2"]}
        ledger.versions.acknowledge(s, "slow", version=1, sequence=1, counters=counters)
    sweep(world, keep="now")
    assert left(world)[0] == ["tempo-v1", "tempo-v2", "tempo-v7", "tempo-v8"]
    with world.sessions.begin() as s:
        ledger.versions.acknowledge(s, "slow", version=8, sequence=8, counters={})
    sweep(world, keep="now")
    assert left(world)[0] == ["tempo-v1", "tempo-v2", "tempo-v7", "tempo-v8"]  # four, no more


def test_a_budget_counts_checkpoints_and_spares_what_is_in_use(world: Any) -> None:
    one = 100 + sum(p.stat().st_size for p in (world.settings.checkpoints_dir / "c1").iterdir())
    world.settings = WorkerSettings(data_dir=world.settings.root, versions_bytes=3 * one)
    sweep(world, keep="now")
    assert left(world)[0] == ["tempo-v6", "tempo-v7", "tempo-v8"]
    world.settings = WorkerSettings(data_dir=world.settings.root, versions_bytes=1)
    sweep(world, keep="now")
    assert left(world)[0] == ["tempo-v7", "tempo-v8"]


def test_an_older_one_does_not_slip_in_below_the_budget() -> None:
    rows = [Adapter(version=n) for n in (3, 2, 1)]
    beyond = surplus(rows, [10, 100, 10], {3}, 20, 50)
    assert [row.version for row in beyond] == [2, 1]


def test_what_cannot_be_deleted_holds_nothing_else_up_and_goes_next_time(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = world.store.remove

    def refuse_the_first(name: str) -> None:
        if name == "tempo-v1":
            raise OSError("busy")
        remove(name)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "remove", refuse_the_first)
        sweep(world, keep="now")
    assert left(world)[0] == ["tempo-v1", *(f"tempo-v{n}" for n in (5, 6, 7, 8))]
    assert "c1" not in left(world)[1]
    sweep(world, keep="now")
    assert len(left(world)[0]) == 4


def test_a_rejected_version_that_may_be_forced_keeps_its_checkpoint(world: Any) -> None:
    with world.sessions.begin() as s:
        ledger.versions.reject_serving(s, 8, to=7, reason="below the base")
    sweep(world, keep="now")
    assert "c8" in left(world)[1]
    with world.sessions.begin() as s:
        ledger.versions.promote(s, 8, force=True)
        assert ledger.versions.checkpoint_of(s, 8) == "c8"


def test_what_appears_after_the_lease_was_seen_to_be_held_stays(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = ledger.versions.in_use

    def sleep_and_be_succeeded(s: Any) -> set[int]:
        checkpoint.save(world.settings.checkpoints_dir, "a successor's", {})
        return marked(s)

    monkeypatch.setattr(ledger.versions, "in_use", sleep_and_be_succeeded)
    sweep(world, keep="now")
    assert "a successor's" in left(world)[1]


def test_a_worker_without_the_lease_deletes_nothing(world: Any) -> None:
    world.epoch = lambda: 7
    with pytest.raises(LeaseLostError):
        sweep(world, keep="now")
    assert len(left(world)[0]) == 8
