"""Files of old versions are deleted, unless they serve, drain or may be returned to."""

from pathlib import Path
from typing import Any

import pytest
from learners import Parts
from ledgers import candidate
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.adapters import AdapterStore
from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import Adapter
from tempo_trainer.learning import checkpoint
from tempo_trainer.versions.publishing import surplus


@pytest.fixture
def parts(sessions: sessionmaker[Session], tmp_path: Path) -> Parts:
    """Versions 1 to 8, each promoted over the one before, and a checkpoint that goes on."""
    worker = Parts(sessions, tmp_path, versions_kept=4)
    checkpoint.save(worker.settings.checkpoints_dir, "now", {})
    with sessions.begin() as s:
        for number in range(1, 9):
            checkpoint.save(worker.settings.checkpoints_dir, f"c{number}", {})
            (worker.store.root / f"tempo-v{number}").mkdir(parents=True)
            row = candidate(number, parent=number - 1, bytes=100, checkpoint=f"c{number}")
            row.report = {"reason": "fine"}
            s.add(row)
            s.flush()
            ledger.versions.promote(s, number)
    return worker


def sweep(parts: Parts, **settings: Any) -> None:
    parts.settings = parts.settings.model_copy(update=settings)
    parts.publisher.sweep(keep="now")


def versions(parts: Parts) -> list[int]:
    """Return the versions whose files are there."""
    return sorted(int(name.removeprefix("tempo-v")) for name in parts.store.names())


def checkpoints(parts: Parts) -> set[str]:
    return checkpoint.names(parts.settings.checkpoints_dir)


def test_the_newest_files_stay_and_all_rows(parts: Parts) -> None:
    sweep(parts)
    assert versions(parts) == [5, 6, 7, 8]
    assert checkpoints(parts) == {"c5", "c6", "c7", "c8", "now"}
    with parts.sessions() as s:
        rows = {row.version: row for row in ledger.versions.adapters(s)}
    assert rows.keys() == set(range(1, 9))
    reason = "beyond 4 versions or 53687091200 bytes"
    assert rows[1].report == {"reason": "fine", "swept": reason}
    assert rows[5].report == {"reason": "fine"}


def test_files_that_a_process_serves_or_answers_with_stay(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.versions.acknowledge(s, "slow", version=1, sequence=1, held=["tempo-v2"])
    sweep(parts)
    assert versions(parts) == [1, 2, 7, 8]
    with parts.sessions.begin() as s:
        ledger.versions.acknowledge(s, "slow", version=8, sequence=8)
    sweep(parts)
    assert versions(parts) == [1, 2, 7, 8]  # four are not too many


def test_a_budget_counts_checkpoints_and_spares_versions_in_use(parts: Parts) -> None:
    files = (parts.settings.checkpoints_dir / "c1").iterdir()
    size = 100 + sum(path.stat().st_size for path in files)
    sweep(parts, versions_kept=20, versions_bytes=3 * size)
    assert versions(parts) == [6, 7, 8]
    sweep(parts, versions_bytes=1)
    assert versions(parts) == [7, 8]


def test_an_older_version_does_not_slip_in_below_the_budget() -> None:
    rows = [Adapter(version=n) for n in (3, 2, 1)]
    beyond = surplus(rows, [10, 100, 10], {3}, 20, 50)
    assert [row.version for row in beyond] == [2, 1]


def test_files_that_cannot_be_deleted_hold_nothing_else_up_and_go_next_time(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = AdapterStore.remove

    def fail_for_the_first(store: AdapterStore, name: str) -> None:
        if name == "tempo-v1":
            raise OSError("busy")
        remove(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterStore, "remove", fail_for_the_first)
        sweep(parts)
    assert versions(parts) == [1, 5, 6, 7, 8]
    assert "c1" not in checkpoints(parts)
    sweep(parts)
    assert versions(parts) == [5, 6, 7, 8]


def test_a_rejected_version_that_may_be_forced_keeps_its_checkpoint(parts: Parts) -> None:
    with parts.sessions.begin() as s:
        ledger.versions.reject_serving(s, 8, to=7, reason="below the base")
    sweep(parts)
    assert "c8" in checkpoints(parts)
    with parts.sessions.begin() as s:
        ledger.versions.promote(s, 8, force=True)
        assert ledger.versions.checkpoint_of(s, 8) == "c8"


def test_files_that_a_successor_wrote_stay(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = ledger.versions.in_use

    def sleep_and_be_succeeded(s: Any) -> set[int]:
        checkpoint.save(parts.settings.checkpoints_dir, "a successor's", {})
        return in_use(s)

    monkeypatch.setattr(ledger.versions, "in_use", sleep_and_be_succeeded)
    sweep(parts)
    assert "a successor's" in checkpoints(parts)


def test_a_worker_without_the_lease_deletes_nothing(parts: Parts) -> None:
    parts.epoch = 7
    with pytest.raises(LeaseLostError):
        sweep(parts)
    assert len(versions(parts)) == 8
