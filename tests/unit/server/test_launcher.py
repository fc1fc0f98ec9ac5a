"""The command line that becomes vLLM's, and what vLLM asks the environment."""

import subprocess
import sys

import pytest

from tempo_server.launcher import allow_plugins, arguments


def test_our_flags_are_added() -> None:
    assert arguments(["m", "--port", "1"], {}) == [
        *("serve", "m", "--port", "1", "--enable-lora", "--max-loras", "5"),
        *("--max-cpu-loras", "16", "--max-lora-rank", "16", "--scheduling-policy", "priority"),
    ]


@pytest.mark.parametrize("given", [["--max-loras=9"], ["--max_loras", "9"], ["--max-loras", "9"]])
def test_the_operators_flags_win(given: list[str]) -> None:
    result = arguments(["m", *given], {})
    assert result[1 : 2 + len(given)] == ["m", *given]
    assert "5" not in result


def test_the_rank_is_the_shared_setting() -> None:
    result = arguments(["m"], {"TEMPO_LORA_RANK": "32"})
    assert result[result.index("--max-lora-rank") + 1] == "32"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "tempo,tempo_cpu_lora"),
        ({"VLLM_PLUGINS": ""}, "tempo,tempo_cpu_lora"),
        ({"VLLM_PLUGINS": "mine,tempo"}, "mine,tempo,tempo_cpu_lora"),
    ],
)
def test_the_operators_plugins_stay(before: dict[str, str], after: str) -> None:
    allow_plugins(before)
    assert before["VLLM_PLUGINS"] == after


def test_the_cpu_build_answers_for_vllm() -> None:
    script = (
        "from tempo_server.launcher import answer_for_vllm; answer_for_vllm();"
        "from importlib.metadata import version, PackageNotFoundError;"
        "print(version('vllm'), version('vllm-tempo'))\n"
        "try: version('no-such-thing')\n"
        "except PackageNotFoundError: print('not found')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout.split("\n")[:2] == ["0.32.0+cpu 0.1.0", "not found"]
