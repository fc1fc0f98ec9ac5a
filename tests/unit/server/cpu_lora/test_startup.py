"""On a CPU the KV cache takes what the model needs, and compiled code is loaded again."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tempo_server.cpu_lora import startup

GIB = 1 << 30


def config(
    *, layers: int = 30, length: int = 8192, size: int | None = None, sequences: int = 256
) -> Any:
    """Return vLLM's configuration of a model with three KV heads of 64 values in bfloat16."""
    model = SimpleNamespace(
        max_model_len=length,
        dtype=torch.bfloat16,
        get_num_kv_heads=lambda parallel: 3,
        get_head_size=lambda: 64,
        get_num_layers=lambda parallel: layers,
    )
    cache = SimpleNamespace(kv_cache_memory_bytes=size, gpu_memory_utilization=0.5)
    return SimpleNamespace(
        model_config=model,
        cache_config=cache,
        scheduler_config=SimpleNamespace(max_num_seqs=sequences),
        parallel_config=None,
    )


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 24 GiB of memory."""
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 24 * GIB // 4096}
    monkeypatch.setattr(startup.os, "sysconf", values.__getitem__)


@pytest.mark.parametrize(
    ("length", "sequences", "room"),
    [
        pytest.param(512, 128, 128, id="all sequences that vLLM runs at once"),
        pytest.param(2048, 256, 34, id="a sixteenth of the machine's memory"),
        pytest.param(32_768, 256, 8, id="eight sequences, however long"),
    ],
)
def test_the_kv_cache_has_room_for_sequences_of_the_greatest_length(
    length: int, sequences: int, room: int
) -> None:
    vllm_config = config(length=length, sequences=sequences)
    startup.limit_kv_cache(vllm_config)
    # Keys and values of 30 layers: 23,040 bytes a token.
    assert vllm_config.cache_config.kv_cache_memory_bytes == room * length * 23_040


@pytest.mark.parametrize(
    "vllm_config",
    [
        pytest.param(config(size=GIB), id="an operator's own size"),
        pytest.param(config(layers=300), id="more than half of the share"),
    ],
)
def test_a_kv_cache_of_another_size_stays(vllm_config: Any) -> None:
    before = vars(vllm_config.cache_config).copy()
    startup.limit_kv_cache(vllm_config)
    assert vars(vllm_config.cache_config) == before


@pytest.mark.parametrize(
    ("size", "is_operators", "blocks"),
    [(128, False, 32), (128, True, 128), (16, False, 16), (256, False, 256)],
)
def test_only_the_stock_size_of_a_block_becomes_shorter(
    size: int, is_operators: bool, blocks: int
) -> None:
    cache = SimpleNamespace(block_size=size, user_specified_block_size=is_operators)
    startup.shorten_blocks(cache)
    assert cache.block_size == blocks


def test_a_loaded_function_of_torch_has_the_method_that_vllm_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled() -> str:
        return "compiled"

    loaded = SimpleNamespace(_artifacts=SimpleNamespace(compiled_fn=compiled))
    stock = torch.compiler.load_compiled_function
    monkeypatch.setattr(torch.compiler, "load_compiled_function", lambda file, f_globals: loaded)
    startup.reuse_compiled_models()
    assert torch.compiler.load_compiled_function("file", f_globals={}) is loaded
    assert compiled.finalize_loading(None) is None  # type: ignore[attr-defined]
    assert stock is not torch.compiler.load_compiled_function


def test_a_function_of_vllm_keeps_its_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(finalize_loading="vLLM's own")
    loaded = SimpleNamespace(_artifacts=SimpleNamespace(compiled_fn=own))
    monkeypatch.setattr(torch.compiler, "load_compiled_function", lambda file: loaded)
    startup.reuse_compiled_models()
    torch.compiler.load_compiled_function("file")
    assert own.finalize_loading == "vLLM's own"
