"""Dense LoRA on vLLM's CPU backend: chosen here, computed in `dense_lora`.

vLLM 0.32's CPU operators copy an adapter's matrices once per token, and take index -1 (no adapter)
for the last slot, so that in a mixed batch the base's rows get an adapter's delta. Nor can they be
compiled, so a model with LoRA runs eagerly, a quarter slower with no adapter loaded. Entry
point `vllm.general_plugins: tempo_cpu_lora`, loaded by the API server, the engine core and the
workers. Replaced are the name that the CPU platform answers when a worker asks for its wrapper, and
its rule that LoRA is not compiled; on other platforms and other versions nothing is.
"""

import inspect
import logging
from typing import Any

import torch
import vllm
from torch._dynamo import config as dynamo
from vllm.platforms import current_platform

logger = logging.getLogger("vllm.tempo.cpu_lora")

VERSION = "0.32."
STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
DENSE = "tempo_server.cpu_lora.dense.DenseLoRA"
# What DenseLoRA overrides, as it is in the versions that it was written for.
PARAMETERS = {
    "update_metadata": ["self", "mapping", "lora_index_to_id", "max_loras", "vocab_size", "kwargs"],
    "add_lora_linear": [
        *("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"),
        *("buffer", "kwargs"),
    ],
    "add_lora_embedding": ["self", "y", "x", "lora_b_stacked", "add_inputs", "kwargs"],
    "add_lora_logits": [
        *("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer", "kwargs"),
    ],
}


def register() -> None:
    """Let workers on the CPU platform use `DenseLoRA`, where it fits this vLLM."""
    if current_platform.is_cpu():
        request_amx()
    if current_platform.is_cpu() and current_platform.get_punica_wrapper() != DENSE:
        install(type(current_platform), vllm.__version__)


def request_amx() -> None:
    """Ask Linux for the AMX tiles of the processor, where it has them.

    vLLM 0.32 uses AMX in its attention as soon as the processor has it. Linux kills a process that
    uses the tiles without having asked ("illegal instruction"). oneDNN asks when it multiplies
    large matrices first; with a small model the attention comes first.
    """
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()


def install(platform: Any, version: str) -> None:
    """Make a platform answer `DENSE`, or say in one line why stock stays."""
    reason = mismatch(platform, version)
    if reason is not None:
        logger.warning("stock CPU LoRA stays (slow, and wrong for base rows): %s", reason)
        return
    platform.get_punica_wrapper = classmethod(lambda _: DENSE)
    platform.check_and_update_config = _compiled(platform.check_and_update_config)
    logger.info("dense CPU LoRA in place of %s", STOCK)


def mismatch(platform: Any, version: str) -> str | None:
    """Return what in this vLLM is not what `DenseLoRA` builds on, or None."""
    if not version.startswith(VERSION):
        return f"vLLM is {version}, written for {VERSION}x"
    answered = platform.get_punica_wrapper()
    if answered != STOCK:
        return f"the platform's LoRA wrapper is {answered}, not {STOCK}"
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    for name, expected in PARAMETERS.items():
        found = list(inspect.signature(getattr(PunicaWrapperCPU, name)).parameters)
        if found != expected:
            return f"{name} takes {', '.join(found)}"
    return None


def _compiled(check: Any) -> Any:
    """Return the platform's check without its one rule for LoRA, which turns compilation off.

    The rule stays for fully sharded layers, which the stock operators serve, and where nothing is
    compiled: it picks the better kernels then.
    """

    def check_and_update_config(_: Any, vllm_config: Any) -> None:
        lora = vllm_config.lora_config
        if lora is not None and not lora.fully_sharded_loras and not dynamo.disable:
            vllm_config.lora_config = None
        try:
            check(vllm_config)
        finally:
            vllm_config.lora_config = lora

    return classmethod(check_and_update_config)
