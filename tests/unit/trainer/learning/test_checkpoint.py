"""Checkpoints are whole or absent."""

from pathlib import Path

import pytest
import torch

from tempo_storage.errors import NotFoundError
from tempo_trainer.learning import checkpoint


def test_a_checkpoint_returns_as_it_was(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.arange(3)}, "progress": {"m_steps": 4}, "rows": [[{"x": 1.5}]]}
    checkpoint.save(tmp_path, "job-1", state)
    loaded = checkpoint.load(tmp_path, "job-1")
    assert torch.equal(loaded["weights"]["a"], torch.arange(3))
    assert (loaded["progress"], loaded["rows"]) == (state["progress"], state["rows"])


def test_a_writer_that_dies_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        checkpoint.save(tmp_path, "job-1", {"weights": lambda: 0})
    with pytest.raises(NotFoundError, match="no checkpoint 'job-1'"):
        checkpoint.load(tmp_path, "job-1")
    checkpoint.save(tmp_path, "job-1", {"again": 1})
    assert checkpoint.load(tmp_path, "job-1") == {"again": 1}


def test_only_what_is_named_is_removed(tmp_path: Path) -> None:
    assert checkpoint.names(tmp_path / "nowhere") == set()
    for number in range(3):
        checkpoint.save(tmp_path, f"job-{number}", {})
    checkpoint.remove(tmp_path, checkpoint.names(tmp_path) - {"job-1"})
    assert [path.name for path in tmp_path.iterdir()] == ["job-1"]
