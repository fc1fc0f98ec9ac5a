"""The arguments, the plugins and the version with which vLLM starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import clean_environment

from tempo_server.commands.vllm_serve import allow_plugins, set_users_key, vllm_arguments


def test_our_flags_are_added() -> None:
    assert vllm_arguments(["m", "--port", "1"], lora_rank=32) == [
        *("serve", "m", "--port", "1", "--host", "127.0.0.1"),
        *("--enable-lora", "--max-loras", "5"),
        *("--max-cpu-loras", "16", "--max-lora-rank", "32", "--scheduling-policy", "priority"),
        *("--gpu-memory-utilization", "0.5", "--shutdown-timeout", "10"),
    ]


@pytest.mark.parametrize("flags", [["--max-loras=9"], ["--max_loras", "9"], ["--max-loras", "9"]])
def test_the_operator_s_flags_win(flags: list[str]) -> None:
    result = vllm_arguments(["m", *flags], lora_rank=16)
    assert result[1 : 2 + len(flags)] == ["m", *flags]
    assert "5" not in result


def run_main(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher with a vLLM that prints its arguments and its key."""
    script = (
        "import os, sys, types; cli = types.ModuleType('vllm.entrypoints.cli.main')\n"
        "cli.main = lambda: print(sys.argv, os.environ.get('VLLM_API_KEY'))\n"
        "sys.modules[cli.__name__] = cli\n"
        "from tempo_server.commands import vllm_serve; vllm_serve.main()"
    )
    env = clean_environment() | variables
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)


def test_the_rank_and_the_users_key_are_the_shared_settings_even_if_files_set_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "tempo_lora_rank").write_text("32")
    (tmp_path / "tempo_vllm_api_key").write_text("secret\n")
    result = run_main("m", "--host", "0.0.0.0", TEMPO_SETTINGS_DIR=str(tmp_path))
    assert "'--max-lora-rank', '32'" in result.stdout
    assert result.stdout.endswith("] secret\n")


def test_the_launcher_refuses_a_public_address_without_a_key_before_vllm_starts() -> None:
    result = run_main("m", "--host", "0.0.0.0")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("tempo: --host 0.0.0.0 lets other machines use the model")
    allowed = run_main("m", "--host", "0.0.0.0", "--insecure-public")
    assert "insecure" not in allowed.stdout
    assert "'--host', '0.0.0.0'" in allowed.stdout


def test_an_operator_s_own_variable_wins_over_our_setting() -> None:
    environ = {"VLLM_API_KEY": "theirs"}
    set_users_key(["m"], "ours", environ)
    assert environ == {"VLLM_API_KEY": "theirs"}


def test_a_process_of_vllm_that_imports_the_launcher_loads_no_database() -> None:
    heavy = ["sqlalchemy", "redis", "fastapi"]
    script = (
        "import sys, tempo_server.commands.vllm_serve;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "[]\n"


def test_vllm_gets_half_of_the_memory_unless_the_operator_says_otherwise() -> None:
    assert "0.5" in vllm_arguments(["m"], lora_rank=16)
    assert "0.5" not in vllm_arguments(["m", "--gpu_memory_utilization=0.9"], lora_rank=16)


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
