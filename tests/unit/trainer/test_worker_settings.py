"""Settings come from variables, and a bad one is a line that names it."""

from pathlib import Path

import pytest

from tempo_storage.errors import SettingsError
from tempo_storage.settings import checked
from tempo_trainer.sampling.server import admin_key
from tempo_trainer.worker_settings import WorkerSettings


def test_the_control_s_sign_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_REWARD_SIGN", "-1")
    assert checked(WorkerSettings).reward_sign == -1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TEMPO_REWARD_SIGN", "2", "TEMPO_REWARD_SIGN is 2; Input should be 1 or -1"),
        ("TEMPO_GROUP_SIZE", "1", "TEMPO_GROUP_SIZE is '1'; .* greater than or equal to 2"),
        ("TEMPO_GRUOP_SIZE", "8", "unknown setting TEMPO_GRUOP_SIZE; did you mean"),
    ],
)
def test_a_bad_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        checked(WorkerSettings)


def test_a_key_file_may_be_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("k\n")
    assert admin_key(WorkerSettings(api_key_file="~/key")) == "k"
