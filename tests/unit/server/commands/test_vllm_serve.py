"""The arguments, the plugins and the version with which vLLM starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tempo_server.commands.vllm_serve import allow_plugins, flag_value, vllm_arguments


def test_our_flags_are_added() -> None:
    assert vllm_arguments(["m", "--port", "1"], lora_rank=32) == [
        *("serve", "m", "--port", "1", "--enable-lora", "--max-loras", "5"),
        *("--max-cpu-loras", "16", "--max-lora-rank", "32", "--scheduling-policy", "priority"),
        *("--gpu-memory-utilization", "0.5", "--shutdown-timeout", "10"),
    ]


@pytest.mark.parametrize("flags", [["--max-loras=9"], ["--max_loras", "9"], ["--max-loras", "9"]])
def test_the_operator_s_flags_win(flags: list[str]) -> None:
    result = vllm_arguments(["m", *flags], lora_rank=16)
    assert result[1 : 2 + len(flags)] == ["m", *flags]
    assert "5" not in result


def test_the_rank_is_the_shared_setting_even_if_a_file_sets_it(tmp_path: Path) -> None:
    (tmp_path / "tempo_lora_rank").write_text("32")
    script = (
        "import sys, types; cli = types.ModuleType('vllm.entrypoints.cli.main')\n"
        "cli.main = lambda: print(sys.argv); sys.modules[cli.__name__] = cli\n"
        "from tempo_server.commands import vllm_serve; vllm_serve.main()"
    )
    environ = {**os.environ, "TEMPO_SETTINGS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script, "m"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    assert "'--max-lora-rank', '32'" in result.stdout


def test_vllm_gets_half_of_the_memory_unless_the_operator_says_otherwise() -> None:
    assert "0.5" in vllm_arguments(["m"], lora_rank=16)
    assert "0.5" not in vllm_arguments(["m", "--gpu_memory_utilization=0.9"], lora_rank=16)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["m", "--port", "1"], "1"),
        (["m", "--port=1"], "1"),
        (["m", "--port", "2", "--port=1"], "1"),
        (["m", "--port"], ""),
        (["m", "--portal", "1"], None),
    ],
)
def test_flags_are_read_as_vllm_reads_them(arguments: list[str], value: str | None) -> None:
    assert flag_value("--port", arguments) == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "tempo,tempo_cpu_lora"),
        ({"VLLM_PLUGINS": ""}, "tempo,tempo_cpu_lora"),
        ({"VLLM_PLUGINS": "mine,tempo"}, "mine,tempo,tempo_cpu_lora"),
    ],
)
def test_the_operator_s_plugins_stay_allowed(before: dict[str, str], after: str) -> None:
    allow_plugins(before)
    assert before["VLLM_PLUGINS"] == after


def test_the_cpu_build_s_version_stands_for_vllm_s() -> None:
    script = (
        "from tempo_server.commands.vllm_serve import answer_for_vllm; answer_for_vllm();"
        "from importlib.metadata import version, PackageNotFoundError;"
        "print(version('vllm'), version('vllm-tempo'))\n"
        "try: version('no-such-thing')\n"
        "except PackageNotFoundError: print('not found')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout.split("\n")[:2] == ["0.32.0+cpu 0.1.0", "not found"]
