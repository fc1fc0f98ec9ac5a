"""Variables that an earlier version read are warned about; empty files are refused."""

import logging
import os
from pathlib import Path

import pytest

from tempo_storage.errors import SettingsError
from tempo_storage.settings import (
    REMOVED_VARIABLES,
    StorageSettings,
    checked,
    read_key,
    refuse_unknown_variables,
)


@pytest.fixture(autouse=True)
def _no_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TEMPO_")]:
        monkeypatch.delenv(name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the settings, which the server's process shows by this logger."""
    return [text for name, _, text in caplog.record_tuples if name == "vllm.tempo.settings"]


@pytest.mark.parametrize("name", sorted(REMOVED_VARIABLES))
def test_a_removed_variable_is_warned_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_unknown_variables(StorageSettings, environ={name: "1", "HOME": "/"})
    reason = REMOVED_VARIABLES[name]
    assert warnings(caplog) == [f"{name} has no effect since version 0.2 ({reason}); remove it"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_removed_variable_does_not_stop_a_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPO_VALUE_CLIP", "not a number")
    monkeypatch.setenv("TEMPO_GAE_DECAY", "0.9")
    assert checked(StorageSettings).lora_rank == 16
    assert [text.split()[0] for text in warnings(caplog)] == ["TEMPO_GAE_DECAY", "TEMPO_VALUE_CLIP"]


def test_a_removed_setting_in_the_settings_directory_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tempo_value_clip").write_text("0.1\n")
    (tmp_path / "tempo_lora_rank").write_text("4\n")
    monkeypatch.setenv("TEMPO_SETTINGS_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPO_VALUE_CLIP", "0.1")
    monkeypatch.setitem(StorageSettings.model_config, "secrets_dir", str(tmp_path))
    assert checked(StorageSettings).lora_rank == 4
    (warning,) = warnings(caplog)
    assert warning.startswith("TEMPO_VALUE_CLIP has no effect since version 0.2 (")


def test_a_misspelt_variable_is_refused_beside_a_removed_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"TEMPO_VALUE_CLIP": "0.1", "TEMPO_VALUE_CLIPS": "0.1"}
    with pytest.raises(SettingsError, match="unknown setting TEMPO_VALUE_CLIPS"):
        refuse_unknown_variables(StorageSettings, environ=environ)
    assert len(warnings(caplog)) == 1


# Files that say nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
@pytest.mark.parametrize("name", ["tempo_vllm_api_key", "tempo_redis_url", "TEMPO_LORA_RANK"])
def test_an_empty_settings_file_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=f"{name} is empty; write a value, or delete it"):
        refuse_unknown_variables(StorageSettings, environ={"TEMPO_SETTINGS_DIR": str(tmp_path)})
    (tmp_path / name).write_text("16")
    refuse_unknown_variables(StorageSettings, environ={"TEMPO_SETTINGS_DIR": str(tmp_path)})


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n"])
def test_an_empty_key_file_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"a\.key is empty; write a key into it"):
        read_key(file)


def test_a_key_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no admin key at .*No such file.*TEMPO_API_KEY_FILE"):
        read_key(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="it is no text"):
        read_key(tmp_path / "binary")
    (tmp_path / "good").write_text("tk_x\n")
    assert read_key(tmp_path / "good") == "tk_x"
