"""Variables of an earlier version: a removed one is a warning, a renamed value still holds."""

import logging
import os
from pathlib import Path

import pytest

from tempo_storage.errors import SettingsError
from tempo_storage.settings import (
    REMOVED_VARIABLES,
    StorageSettings,
    checked,
    refuse_unknown_variables,
)
from tempo_trainer.worker_settings import WorkerSettings


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
    assert warnings(caplog) == [f"{name} has no effect since version 0.2; remove it"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_removed_variable_does_not_stop_a_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPO_VALUE_CLIP", "not a number")
    monkeypatch.setenv("TEMPO_GAE_DECAY", "0.9")
    assert checked(WorkerSettings).group_size == 8
    assert [text.split()[0] for text in warnings(caplog)] == ["TEMPO_GAE_DECAY", "TEMPO_VALUE_CLIP"]


def test_a_removed_setting_in_the_settings_directory_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tempo_value_clip").write_text("0.1\n")
    (tmp_path / "tempo_group_size").write_text("4\n")
    monkeypatch.setenv("TEMPO_SETTINGS_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPO_VALUE_CLIP", "0.1")
    monkeypatch.setitem(WorkerSettings.model_config, "secrets_dir", str(tmp_path))
    assert checked(WorkerSettings).group_size == 4
    assert warnings(caplog) == ["TEMPO_VALUE_CLIP has no effect since version 0.2; remove it"]


def test_a_misspelt_variable_is_refused_beside_a_removed_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"TEMPO_VALUE_CLIP": "0.1", "TEMPO_VALUE_CLIPS": "0.1"}
    with pytest.raises(SettingsError, match="unknown setting TEMPO_VALUE_CLIPS"):
        refuse_unknown_variables(StorageSettings, environ=environ)
    assert len(warnings(caplog)) == 1


def test_the_removed_estimator_is_refused_with_the_one_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPO_ESTIMATOR", "em_gae")
    with pytest.raises(SettingsError) as refusal:
        checked(WorkerSettings)
    assert str(refusal.value) == (
        "TEMPO_ESTIMATOR is 'em_gae'; version 0.2 removed em_gae;"
        " set em_token, which is em_gae at a decay of 1"
    )


@pytest.mark.parametrize(("value", "count"), [("release", 1), ("reference_code", 0)])
def test_the_old_name_of_an_order_still_holds_with_one_warning(
    value: str, count: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEMPO_ORDER", value)
    assert checked(WorkerSettings).order == "reference_code"
    text = "TEMPO_ORDER=release has a new name since version 0.2; set reference_code"
    assert warnings(caplog) == [text] * count


def test_another_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_ORDER", "paper_first")
    with pytest.raises(
        SettingsError, match="TEMPO_ORDER is 'paper_first'; Input should be 'paper'"
    ):
        checked(WorkerSettings)
