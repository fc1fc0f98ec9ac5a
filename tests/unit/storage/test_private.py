"""Everything in a data directory belongs to its owner alone, also what was there before."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import captured, sqlite_ledger
from valkeys import embedded_valkey

from tempo_storage import ledger, private
from tempo_storage.processes import forbid_core_files


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """The umask of an ordinary shell, with which files are open to all."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): stat.S_IMODE(p.lstat().st_mode) for p in root.rglob("*")}


def test_files_that_existed_before_are_repaired(tmp_path: Path) -> None:
    root = tmp_path / "data"
    adapter = root / "adapters" / "tempo-v1"
    adapter.mkdir(parents=True, mode=0o755)
    for path in (adapter / "manifest.json", root / "tempo.db", root / "tempo.db-wal"):
        path.write_text("x")
        path.chmod(0o664)
    (root / "appendonlydir").mkdir()
    (root / "appendonlydir" / "a.aof").write_text("x")
    assert len(private.exposed(root)) == 8
    private.create_private(root)
    assert private.exposed(root) == []
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    directories = {"adapters", "adapters/tempo-v1", "appendonlydir"}
    assert {name: mode for name, mode in modes(root).items() if mode != 0o600} == dict.fromkeys(
        directories, 0o700
    )


def test_an_operator_s_own_files_and_links_stay_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "adapters").mkdir(parents=True)
    (root / "notes.txt").write_text("x")
    (elsewhere := tmp_path / "elsewhere").write_text("x")
    (root / "adapters" / "link").symlink_to(elsewhere)
    private.create_private(root)
    assert modes(root)["notes.txt"] == 0o644
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


def test_a_ledger_and_its_log_are_made_for_their_owner(tmp_path: Path) -> None:
    private.create_private(tmp_path)
    with sqlite_ledger(tmp_path) as sessions, sessions.begin() as s:
        ledger.pool.add(s, [captured("a", "1 + 1")])
        assert {name: oct(mode) for name, mode in modes(tmp_path).items()} == {
            name: oct(0o600) for name in ("tempo.db", "tempo.db-wal", "tempo.db-shm")
        }


@pytest.mark.service
def test_valkey_s_socket_log_and_file_are_their_owner_s(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path / "data"):
        assert private.exposed(tmp_path / "data") == []
        assert stat.S_IMODE((tmp_path / "data" / "valkey.sock").stat().st_mode) == 0o600
        assert len(list((tmp_path / "data" / "appendonlydir").iterdir())) == 3


def test_no_core_file_is_written() -> None:
    child = os.fork()
    if not child:
        forbid_core_files()
        with open("/proc/self/limits") as limits:
            line = next(line for line in limits if line.startswith("Max core file size"))
        os._exit(0 if line.split()[4:6] == ["0", "0"] else 1)
    assert os.waitpid(child, 0)[1] == 0
