"""A copy of the old data directory for each test."""

from pathlib import Path

import pytest
from old_data import unpack


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The root of the old deployment: base/, data/, installed/, postgresql.sql, reader.key."""
    return unpack(tmp_path / "old")
