"""The checks that `tempo serve` and `tempo doctor` share: each names its finding and a remedy."""

import sys
from pathlib import Path

import pytest

from tempo_server.commands import checks
from tempo_server.commands.checks import CheckError


def test_a_directory_with_room_is_returned_and_left_as_it_was(tmp_path: Path) -> None:
    assert checks.check_disk(tmp_path) == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_does_not_exist_is_checked_where_it_would_be(tmp_path: Path) -> None:
    assert checks.check_disk(tmp_path / "not" / "there") == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/data"])
def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckError, match=r"cannot write to .*\(Not a directory\).*TEMPO_DATA_DIR"):
        checks.check_disk(tmp_path / below)


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="MiB are free in the data directory"):
        checks.check_disk(tmp_path, min_free_bytes=1 << 60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("vllm", r"'vllm-tempo\[cpu\]' or 'vllm-tempo\[gpu\]'"),
        ("rq", r"'vllm-tempo\[server\]'"),
        ("peft", r"'vllm-tempo\[trainer\]'"),
    ],
)
def test_a_missing_module_is_named_with_the_packages_that_bring_it(
    module: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.check_modules()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CheckError, match=rf"{module} is missing; pip install {packages}"):
        checks.check_modules()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "nonsense"])
def test_a_valkey_that_does_not_answer_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(CheckError, match=r"Valkey does not answer .*; check TEMPO_REDIS_URL"):
        checks.check_valkey(url)


def test_a_driver_that_is_missing_is_an_error_of_the_database() -> None:
    expected = r"cannot be used \(no psycopg\); check TEMPO_DATABASE_URL.*vllm-tempo\[postgres\]"
    with pytest.raises(CheckError, match=expected), checks.database_errors():
        raise ImportError("no psycopg\nmore lines")
