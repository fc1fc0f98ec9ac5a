"""The documentation names everything that an operator can set, and no figure stands alone."""

from pathlib import Path

import pytest

from tempo_server.settings import ServerSettings
from tempo_storage.settings import StorageSettings
from tempo_storage.settings_table import described, shown
from tempo_trainer.settings import TrainerSettings
from tempo_trainer.worker_settings import WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TRAINER = (ROOT / "trainer" / "README.md").read_text()


def rows(
    settings: type[StorageSettings], *, beside: type[StorageSettings] | None = None
) -> list[str]:
    """Return the table's rows of the settings that `beside` does not have."""
    known = {setting.name for setting in described(beside)} if beside else set()
    return [
        f"| `{setting.name}` | {shown(setting.default)} | {setting.meaning} |"
        for setting in described(settings)
        if setting.name not in known
    ]


@pytest.mark.parametrize("row", rows(StorageSettings))
def test_shared_settings_are_documented(row: str) -> None:
    assert row in README


@pytest.mark.parametrize("row", rows(ServerSettings, beside=StorageSettings))
def test_the_server_s_settings_are_documented(row: str) -> None:
    assert row in README


@pytest.mark.parametrize("row", rows(WorkerSettings, beside=TrainerSettings))
def test_the_worker_s_settings_are_documented(row: str) -> None:
    assert row in README


@pytest.mark.parametrize("row", rows(TrainerSettings, beside=StorageSettings))
def test_the_trainer_s_settings_are_documented(row: str) -> None:
    assert row in TRAINER


def test_the_readme_is_no_longer_than_a_few_screens() -> None:
    assert len(README.splitlines()) <= 250
