"""`tempo settings` lists every setting with its value and shows no secret."""

import json
import os
import sys
from pathlib import Path

import pytest

from tempo_storage.settings import StorageSettings
from tempo_storage.settings_table import Setting, describe, describe_all, main, markdown


@pytest.fixture(autouse=True)
def _no_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TEMPO_")]:
        monkeypatch.delenv(name)


def test_each_setting_has_its_value_its_default_and_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPO_LORA_RANK", "8")
    assert main(["lora_rank"]) == 0
    meaning = StorageSettings.model_fields["lora_rank"].description
    assert capsys.readouterr().out == f"TEMPO_LORA_RANK\t8\t16\t{meaning}\n"


def test_the_settings_of_every_role_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    names = [setting["name"] for setting in json.loads(capsys.readouterr().out)]
    assert len(names) == len(set(names)) > 50
    for name in ("DATA_DIR", "ALIASES", "GROUP_SIZE", "ROUND_QUESTIONS", "SETTINGS_DIR"):
        assert f"TEMPO_{name}" in names


def test_the_page_has_each_setting_under_the_class_that_declares_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--markdown"]) == 0
    page = capsys.readouterr().out
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert heads == ["## All processes", "## Server", "## Trainer", "## Worker"]
    parts = dict(zip(heads, page.split("## ")[1:], strict=True))
    for name, head in (
        ("DATA_DIR", "## All processes"),
        ("SETTINGS_DIR", "## All processes"),
        ("ALIASES", "## Server"),
        ("GROUP_SIZE", "## Trainer"),
        ("ROUND_QUESTIONS", "## Worker"),
    ):
        assert [h for h, part in parts.items() if f"\n| `TEMPO_{name}` |" in part] == [head]
    rows = [line for line in page.splitlines() if line.startswith("| `TEMPO_")]
    assert len(rows) == len(describe_all())
    assert "| `TEMPO_REDIS_URL` | (empty) | URL of Valkey or Redis;" in page


def test_the_page_shows_defaults_and_never_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    before = markdown(describe_all())
    monkeypatch.setenv("TEMPO_ALIASES", "another-name")
    monkeypatch.setenv("TEMPO_DATABASE_URL", "postgresql://me:secret@host/db")
    assert markdown(describe_all()) == before


def test_a_page_can_be_limited_to_some_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--markdown", "lora_rank"]) == 0
    page = capsys.readouterr().out
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == [
        "TEMPO_LORA_RANK"
    ]
    assert "## All processes" in page
    assert "## Trainer" not in page


def test_a_bar_in_a_meaning_does_not_end_its_cell() -> None:
    setting = Setting("TEMPO_CAPTURE", "Server", "on", "on", "on | off")
    assert "| `TEMPO_CAPTURE` | on | on \\| off |" in markdown([setting])


def test_json_and_page_exclude_each_other() -> None:
    with pytest.raises(SystemExit):
        main(["--json", "--markdown"])


def test_a_terminal_shows_the_default_where_another_value_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPO_LORA_RANK", "8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["sqlite in the"]) == 0  # a part of the meaning; case makes no difference
    assert main(["lora_rank"]) == 0
    first, _, second, meaning = capsys.readouterr().out.splitlines()
    assert first == "TEMPO_DATABASE_URL = (empty)"
    assert second == "TEMPO_LORA_RANK = 8   (default: 16)"
    assert meaning.startswith("    Rank of every adapter")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("TEMPO_API_KEY", "tk_secret", "***"),
        ("TEMPO_VLLM_API_KEY", "", ""),
        ("TEMPO_API_KEY_FILE", "/run/key", "/run/key"),
        ("TEMPO_DATABASE_URL", "postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("TEMPO_DATABASE_URL", "postgresql://me:se@cret@host/db", "postgresql://***@host/db"),
        ("TEMPO_DATABASE_URL", "postgresql://me:se?cret@host/db", "postgresql://***"),
        ("TEMPO_DATABASE_URL", "sqlite:////data/tempo.db", "sqlite:////data/tempo.db"),
        ("TEMPO_REDIS_URL", "redis://host/0?password=secret", "redis://host/0?***"),
        ("TEMPO_REDIS_URL", "redis://host/0?password=s@cret", "redis://***"),
    ],
)
def test_secrets_are_hidden(
    name: str,
    value: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["--json"]) == 0
    values = {s["name"]: s["value"] for s in json.loads(capsys.readouterr().out)}
    assert values[name] == shown


def test_a_variable_has_priority_over_a_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tempo_lora_rank").write_text("8\n")
    (tmp_path / "tempo_data_dir").write_text("/file\n")
    monkeypatch.setenv("TEMPO_DATA_DIR", "/variable")
    monkeypatch.setitem(StorageSettings.model_config, "secrets_dir", str(tmp_path))
    values = {setting.name: setting.value for setting in describe(StorageSettings)}
    assert (values["TEMPO_LORA_RANK"], values["TEMPO_DATA_DIR"]) == ("8", "/variable")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TEMPO_CAPTUER", "off", "unknown setting TEMPO_CAPTUER; did you mean TEMPO_CAPTURE"),
        ("TEMPO_LORA_RANK", "none", "TEMPO_LORA_RANK is 'none'"),
    ],
)
def test_an_unusable_setting_is_named_below_the_list(
    name: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["lora_rank"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("TEMPO_LORA_RANK\t")
    assert shown.err.startswith(f"tempo: {message}")


def test_a_text_that_no_setting_contains_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 1
    assert capsys.readouterr() == (
        "",
        "tempo: no setting is about 'nonsense'; `tempo settings` lists them all\n",
    )
