"""Repairs of vLLM's start on a CPU: the KV cache's size and blocks, and reuse of compiled code."""

import logging
import os
from typing import Any

import torch

logger = logging.getLogger("vllm.tempo.cpu_lora")
STOCK_BLOCK = 128  # tokens
BLOCK = 32  # tokens; the least that the CPU's attention kernel takes
MIN_SEQUENCES = 8  # of --max-model-len tokens; there is room for more shorter ones
MACHINE_SHARE = 16  # the KV cache takes one part of so many of the machine's memory


def shorten_blocks(cache: Any) -> None:
    """Let the KV cache hold blocks of 32 tokens, so that responses share a short prompt.

    vLLM shares only whole blocks among the responses to a prompt, and a block has 128 tokens on a
    CPU. So it computes a prompt of 40 tokens once for each response. An operator's own size stays,
    and that of an attention kernel which needs another one.
    """
    if not cache.user_specified_block_size and cache.block_size == STOCK_BLOCK:
        cache.block_size = BLOCK


def limit_kv_cache(vllm_config: Any) -> None:
    """Give the KV cache room for --max-num-seqs sequences of the greatest length.

    On a CPU vLLM fills the share --gpu-memory-utilization of the machine's memory, and other
    programs need this memory. So the room is at most a sixteenth of the machine's memory, but at
    least MIN_SEQUENCES sequences. An operator's own size stays. vLLM's size stays if the room would
    take more than half of its share.
    """
    cache = vllm_config.cache_config
    if cache.kv_cache_memory_bytes is not None:
        return
    longest = vllm_config.model_config.max_model_len
    one = longest * _bytes_of_token(vllm_config)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fitting = min(vllm_config.scheduler_config.max_num_seqs, machine // MACHINE_SHARE // one)
    sequences = max(MIN_SEQUENCES, fitting)
    size = sequences * one
    if size > cache.gpu_memory_utilization * machine / 2:
        return
    cache.kv_cache_memory_bytes = size
    logger.info(
        "the KV cache has %.2f GiB, room for %d sequences of %d tokens; "
        "--kv-cache-memory-bytes sets another size",
        *(size / (1 << 30), sequences, longest),
    )


def _bytes_of_token(vllm_config: Any) -> int:
    """Return the bytes of a token's keys and values in all layers."""
    model = vllm_config.model_config
    parallel = vllm_config.parallel_config
    values = 2 * model.get_num_kv_heads(parallel) * model.get_head_size()
    return int(values * model.get_num_layers(parallel) * model.dtype.itemsize)


def reuse_compiled_models() -> None:
    """Let vLLM 0.32 load the code that an earlier start compiled, instead of compiling it again.

    vLLM calls `finalize_loading` on the loaded function. On a CPU torch itself compiles the whole
    model, and torch's function has no such method, so that vLLM takes the file for broken.
    """
    stock = torch.compiler.load_compiled_function

    def load_compiled_function(*arguments: Any, **options: Any) -> Any:
        model: Any = stock(*arguments, **options)
        function = model._artifacts.compiled_fn
        if not hasattr(function, "finalize_loading"):
            function.finalize_loading = lambda _: None
        return model

    torch.compiler.load_compiled_function = load_compiled_function
