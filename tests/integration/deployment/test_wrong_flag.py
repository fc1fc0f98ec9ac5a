"""A flag with which vLLM cannot start ends `tempo serve`, with vLLM's error at the end."""

import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_port
from processes import clean_environment
from servers import ENVIRONMENT

pytestmark = [pytest.mark.vllm, pytest.mark.service]

FLAGS = ("--max-model-len", "128", "--host", "127.0.0.1", "--block-size", "16")
SECONDS = 240.0  # for two starts, after which nothing is left to wait for


def test_a_wrong_flag_ends_the_command_after_the_second_start_with_vllm_s_error_on_one_screen(
    tiny_base: Path, tmp_path: Path
) -> None:
    env = clean_environment() | ENVIRONMENT | {"TEMPO_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tempo_client.cli", "serve", str(tiny_base), *FLAGS]
    done = subprocess.run(
        [*command, "--port", str(free_port())],
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.count("starts again in") == 1
    first, *errors = done.stderr.splitlines()
    assert first == "tempo: server ended with 1, 2 times in a row; its errors:"
    assert errors[0] == "ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])."
    assert len(errors) < 12
