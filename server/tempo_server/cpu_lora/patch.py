"""Put dense LoRA into vLLM's CPU backend; `dense` computes it.

vLLM 0.32's CPU operators copy an adapter's matrices once for each token. They take index -1 (no
adapter) for the last slot, so that in a mixed batch the base's rows get an adapter's change. They
cannot be compiled either, so a model with LoRA runs without compilation, a quarter slower even
while no adapter is loaded.

The API server, the engine core and the workers load this module by the entry point
`vllm.general_plugins: tempo_cpu_lora`. It replaces the wrapper's name that the CPU platform gives
to workers, and the platform's rule that LoRA is not compiled. It changes nothing on other platforms
and with other versions of vLLM.
"""

import inspect
import logging
from typing import Any

import torch
import vllm
from torch._dynamo import config as dynamo
from vllm.platforms import current_platform

from tempo_server.cpu_lora.startup import limit_kv_cache, reuse_compiled_models, shorten_blocks

logger = logging.getLogger("vllm.tempo.cpu_lora")

VERSION = "0.32."
STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
DENSE = "tempo_server.cpu_lora.dense.DenseLoRA"
# The methods that DenseLoRA overrides, with the parameters for which it was written.
PARAMETERS = {
    "update_metadata": "self mapping lora_index_to_id max_loras vocab_size kwargs",
    "add_lora_linear": ("self y x lora_a_stacked lora_b_stacked scale output_slices buffer kwargs"),
    "add_lora_embedding": "self y x lora_b_stacked add_inputs kwargs",
    "add_lora_logits": "self y x lora_a_stacked lora_b_stacked scale buffer kwargs",
}


def register() -> None:
    """Prepare a CPU process: request AMX, and let workers use `DenseLoRA` if it fits this vLLM."""
    if not current_platform.is_cpu():
        return
    request_amx()
    if current_platform.get_punica_wrapper() != DENSE:
        install(type(current_platform), vllm.__version__)


def request_amx() -> None:
    """Ask Linux for the processor's AMX tiles, if it has them.

    vLLM 0.32 uses AMX in its attention as soon as the processor has it. Linux kills a process that
    uses the tiles without having asked for them ("illegal instruction"). oneDNN asks when it first
    multiplies large matrices; with a small model the attention comes first.
    """
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()


def install(platform: Any, version: str) -> None:
    """Make a platform answer `DENSE`, or log why vLLM's own operators stay."""
    reason = mismatch(platform, version)
    if reason is not None:
        logger.warning("vLLM's own CPU LoRA stays (slow, and wrong for base rows): %s", reason)
        return
    platform.get_punica_wrapper = classmethod(lambda _: DENSE)
    platform.check_and_update_config = _with_compilation(platform.check_and_update_config)
    reuse_compiled_models()
    logger.info("dense CPU LoRA replaces %s", STOCK)


def mismatch(platform: Any, version: str) -> str | None:
    """Return the first difference from the vLLM for which `DenseLoRA` was written, or None."""
    if not version.startswith(VERSION):
        return f"vLLM is {version}, not {VERSION}x"
    wrapper = platform.get_punica_wrapper()
    if wrapper != STOCK:
        return f"the platform's LoRA wrapper is {wrapper}, not {STOCK}"
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    for name, expected in PARAMETERS.items():
        parameters = " ".join(inspect.signature(getattr(PunicaWrapperCPU, name)).parameters)
        if parameters != expected:
            return f"{name} takes the parameters {parameters}"
    return None


def _with_compilation(check: Any) -> Any:
    """Return the platform's check without its only rule about LoRA, which turns compilation off.

    The check also sizes the KV cache and its blocks.

    The rule stays for fully sharded layers, which vLLM's own operators serve, and where nothing is
    compiled, because there it picks the better kernels.
    """

    def check_and_update_config(_: Any, vllm_config: Any) -> None:
        lora = vllm_config.lora_config
        if lora is not None and not lora.fully_sharded_loras and not dynamo.disable:
            vllm_config.lora_config = None
        try:
            check(vllm_config)
        finally:
            vllm_config.lora_config = lora
        if vllm_config.model_config is not None:
            shorten_blocks(vllm_config.cache_config)
            limit_kv_cache(vllm_config)

    return classmethod(check_and_update_config)
