"""The socket of the embedded Valkey is in a directory that no other user can write to."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.server import EmbeddedValkey


@pytest.fixture
def long_path(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose path is too long for a socket; its private directory is not there."""
    data_dir = tmp_path / ("d" * 100)
    private = EmbeddedValkey(data_dir).socket.parent
    private.rmdir()
    yield data_dir
    if private.is_symlink() or private.is_file():
        private.unlink()
    shutil.rmtree(private, ignore_errors=True)


def private_directory(data_dir: Path) -> Path:
    directory = EmbeddedValkey(data_dir).socket.parent
    directory.rmdir()
    return directory


def test_a_short_path_has_its_socket_in_the_data_directory(tmp_path: Path) -> None:
    assert EmbeddedValkey(tmp_path).socket == tmp_path / "valkey.sock"


def test_a_long_path_has_its_socket_in_a_private_directory(long_path: Path) -> None:
    directory = EmbeddedValkey(long_path).socket.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert EmbeddedValkey(long_path).socket.parent == directory  # the next process takes it, too


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused(long_path: Path, mode: int) -> None:
    directory = private_directory(long_path)
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StreamUnavailableError, match=r"only this user.*TEMPO_DATA_DIR"):
        EmbeddedValkey(long_path)


def test_a_link_or_a_file_in_its_place_is_refused(long_path: Path, tmp_path: Path) -> None:
    directory = private_directory(long_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    with pytest.raises(StreamUnavailableError, match="only this user"):
        EmbeddedValkey(long_path)
    directory.unlink()
    directory.write_text("")
    with pytest.raises(StreamUnavailableError, match="only this user"):
        EmbeddedValkey(long_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_of_another_user_is_refused(long_path: Path) -> None:
    directory = private_directory(long_path)
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    with pytest.raises(StreamUnavailableError, match="only this user"):
        EmbeddedValkey(long_path)
