"""The plugin stops a server that cannot work, at a moment when vLLM does not swallow the error."""

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from tempo_server import assemble
from tempo_server.errors import StartError
from tempo_server.plugin import TempoPlugin
from tempo_server.settings import ServerSettings
from tempo_storage.errors import SettingsError


def test_importing_the_plugin_needs_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules); from tempo_server.plugin import TempoPlugin;"
        "TempoPlugin(); new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'tempo_server'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout.strip() == "[]"


def test_an_unknown_setting_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_CAPTUER", "off")
    with pytest.raises(SettingsError, match="did you mean TEMPO_CAPTURE"):
        TempoPlugin().attach_router(FastAPI())


def test_an_old_vllm_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.version.__version__", "0.31.4")
    with pytest.raises(StartError, match=r"vllm 0\.31\.4 is too old"):
        TempoPlugin().attach_router(FastAPI())


def test_a_missing_package_stops_the_server_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rq", None)
    with pytest.raises(RuntimeError, match=r"pip install 'vllm-tempo\[server\]'"):
        TempoPlugin().attach_router(FastAPI())


def config(**changes: Any) -> Any:
    values = {"max_loras": 5, "policy": "priority"} | changes
    return SimpleNamespace(
        lora_config=SimpleNamespace(max_loras=values["max_loras"]),
        scheduler_config=SimpleNamespace(policy=values["policy"]),
    )


def test_a_vllm_without_lora_is_refused() -> None:
    with pytest.raises(StartError, match="--enable-lora"):
        assemble.check_vllm(SimpleNamespace(lora_config=None))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [({}, ""), ({"max_loras": 1}, "--max-loras is 1"), ({"policy": "fcfs"}, "policy is fcfs")],
)
def test_flags_with_which_vllm_serves_badly_are_logged_and_returned(
    changes: dict[str, Any], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warnings = assemble.check_vllm(config(**changes))
    assert warning in caplog.text
    assert [record.getMessage() for record in caplog.records] == warnings
    assert bool(warnings) == bool(warning)


@pytest.mark.parametrize("flag", ["enable_log_requests", "log_error_stack"])
def test_a_flag_with_which_vllm_logs_questions_is_warned_about(flag: str) -> None:
    (warning,) = assemble.check_vllm(config(), SimpleNamespace(**{flag: True}))
    assert warning == f"--{flag.replace('_', '-')} writes users' questions to the log: leave it out"


def test_aliases_lose_blanks_and_repetitions() -> None:
    assert ServerSettings(aliases=" tempo, tiny,,tempo ").alias_names == ("tempo", "tiny")
