"""Settings come from variables, and a bad one is a line that names it."""

import json
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
        ("TEMPO_DEVICE", "gpu", "TEMPO_DEVICE is 'gpu'; set auto, cpu, cuda or cuda:N"),
        ("TEMPO_DEVICE", "cuda:x", "TEMPO_DEVICE is 'cuda:x'; set auto"),
        ("TEMPO_GRUOP_SIZE", "8", "unknown setting TEMPO_GRUOP_SIZE; did you mean"),
    ],
)
def test_a_bad_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        checked(WorkerSettings)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_a_device_of_torch_is_accepted(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("TEMPO_DEVICE", device)
    assert checked(WorkerSettings).device == device


def test_a_key_file_may_be_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("k\n")
    assert admin_key(WorkerSettings(api_key_file="~/key")) == "k"


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
    records = [r for r in caplog.records if r.name == "vllm.tempo.settings"]
    assert [record.getMessage() for record in records] == [text] * count


def test_another_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_ORDER", "paper_first")
    with pytest.raises(
        SettingsError, match="TEMPO_ORDER is 'paper_first'; Input should be 'paper'"
    ):
        checked(WorkerSettings)


def test_the_settings_of_learning_have_no_secret_and_no_place() -> None:
    secret = "s3cret"
    settings = WorkerSettings(
        api_key=secret, vllm_api_key=secret, database_url=f"postgresql://u:{secret}@h/d"
    )
    values = settings.of_learning()
    assert values.keys() >= {
        "group_size",
        "policy_learning_rate",
        "gate_questions",
        "versions_kept",
    }
    assert secret not in str(values)
    assert values.keys().isdisjoint({"data_dir", "base_url", "redis_url"})
    assert json.loads(json.dumps(values)) == values  # the ledger gives the same values back
