"""Dense LoRA on the CPU gives adapters' rows what vLLM gives them, and the base's rows nothing."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from tempo_server.cpu_lora import dense, patch
from tempo_server.cpu_lora.dense import DenseLoRA, grouped
from tempo_server.cpu_lora.patch import DENSE, STOCK, install

SLOTS, RANK, WIDTH = 5, 16, 32
SLICES = (32, 16, 16)
ADAPTER_OF_SLOT = [11, None, 12, None, 13]
PREFILL = [11] * 5 + [0] * 3 + [12] * 4 + [11] * 2
NO_MODEL = {"model_config": None, "cache_config": None}
DECODE = [11, 0, 12, 13, 0, 11]


@pytest.fixture(autouse=True)
def _same_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the repair of torch's loader that `install` makes."""
    stock = torch.compiler.load_compiled_function
    monkeypatch.setattr(torch.compiler, "load_compiled_function", stock)


class CPU:
    """A platform with vLLM's wrapper for LoRA and its rule that LoRA is not compiled."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        vllm_config.compiled = vllm_config.lora_config is None

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return STOCK


def weights(dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    torch.manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH).to(dtype) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK).to(dtype) for width in SLICES)
    return a, b


def delta(
    kind: type[PunicaWrapperCPU], adapters: list[int], *, prefill: bool, dtype: torch.dtype
) -> Tensor:
    """Return the sum that a wrapper adds to 0 for a batch; `adapters` has each row's (0: base)."""
    wrapper = kind(64, 64, "cpu")
    mapping = LoRAMapping(tuple(adapters), tuple(adapters), is_prefill=prefill)
    wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
    torch.manual_seed(1)
    x = torch.randn(len(adapters), WIDTH).to(dtype)
    y = torch.zeros(len(adapters), sum(SLICES), dtype=dtype)
    wrapper.add_lora_linear(y, x, *weights(dtype), 1.0, SLICES)
    return y


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("adapters", "prefill"), [(PREFILL, True), (DECODE, False)])
def test_adapters_rows_get_what_vllm_gives_them(
    adapters: list[int],
    prefill: bool,
    dtype: torch.dtype,
    instructions: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dense, "HAS_BFLOAT16", instructions)
    monkeypatch.setattr(dense, "MANY_ROWS", 3)
    rows = torch.tensor(adapters) > 0
    by_vllm = delta(PunicaWrapperCPU, adapters, prefill=prefill, dtype=dtype)
    by_us = delta(DenseLoRA, adapters, prefill=prefill, dtype=dtype)
    assert by_vllm[rows].abs().max() > 10
    torch.testing.assert_close(by_us[rows], by_vllm[rows])


@pytest.mark.parametrize(("adapters", "prefill"), [(PREFILL, True), (DECODE, False)])
def test_base_rows_stay_unchanged_where_vllm_adds_the_last_slot_s_adapter(
    adapters: list[int], prefill: bool
) -> None:
    rows = torch.tensor(adapters) == 0
    by_vllm = delta(PunicaWrapperCPU, adapters, prefill=prefill, dtype=torch.float32)
    by_us = delta(DenseLoRA, adapters, prefill=prefill, dtype=torch.float32)
    assert by_vllm[rows].abs().max() > 10  # vLLM's bug; it is fixed if this fails
    assert by_us[rows].abs().max() == 0


def logits_delta(kind: type[PunicaWrapperCPU], rows: int) -> Tensor:
    """Return the sum that a wrapper adds to `rows` rows of logits in a step with batch DECODE."""
    wrapper = kind(64, 64, "cpu")
    mapping = LoRAMapping(tuple(DECODE), tuple(DECODE), is_prefill=False)
    wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
    (a, *_), (b, *_) = weights(torch.float32)
    y = torch.zeros(rows, SLICES[0])
    wrapper.add_lora_logits(y, torch.ones(rows, WIDTH), a, b, 1.0)
    return y


def test_logits_of_adapters_rows_get_what_vllm_gives_them_and_the_base_s_nothing() -> None:
    by_vllm = logits_delta(PunicaWrapperCPU, len(DECODE))
    by_us = logits_delta(DenseLoRA, len(DECODE))
    rows = torch.tensor(DECODE) > 0
    assert by_vllm[rows].abs().max() > 10
    torch.testing.assert_close(by_us[rows], by_vllm[rows])
    assert by_us[~rows].abs().max() == 0


def test_an_adapter_without_logits_adds_nothing_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_add", lambda *_: pytest.fail("a product with nothing but 0"))
    wrapper = DenseLoRA(64, 64, "cpu")
    mapping = LoRAMapping(tuple(DECODE), tuple(DECODE), is_prefill=False)
    wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
    (a, *_), (b, *_) = weights(torch.float32)
    y = torch.ones(len(DECODE), SLICES[0])
    wrapper.add_lora_logits(y, torch.ones(len(DECODE), WIDTH), torch.zeros_like(a), b, 1.0)
    wrapper.add_lora_embedding(y, torch.zeros(len(DECODE), RANK), b)
    assert torch.equal(y, torch.ones_like(y))


@pytest.mark.parametrize("prefill", [True, False])
def test_embeddings_of_adapters_rows_get_what_vllm_gives_them(prefill: bool) -> None:
    (_, *_), (b, *_) = weights(torch.float32)
    outputs = []
    for kind in (PunicaWrapperCPU, DenseLoRA):
        wrapper = kind(64, 64, "cpu")
        mapping = LoRAMapping((11, 11, 13), (11, 11, 13), is_prefill=prefill)
        wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
        outputs.append(torch.zeros(3, SLICES[0]))
        wrapper.add_lora_embedding(outputs[-1], torch.ones(3, RANK), b, add_input=True)
    assert outputs[0].abs().max() > 1
    assert torch.equal(*outputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_may_have_another_precision_than_the_outputs(
    dtype: torch.dtype,
) -> None:
    wrapper = DenseLoRA(64, 64, "cpu")
    mapping = LoRAMapping((11, 13), (11, 13), is_prefill=False)
    wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
    x = torch.ones(2, WIDTH)
    outputs = []
    for weights_in, padding in ((torch.float32, 0), (dtype, 3)):  # `y` may have more columns
        y = torch.zeros(2, sum(SLICES) + padding)
        wrapper.add_lora_linear(y, x, *weights(weights_in), 1.0, SLICES)
        outputs.append(y[:, : sum(SLICES)])
        assert not y[:, sum(SLICES) :].any()
    torch.testing.assert_close(outputs[1], outputs[0], atol=1.0, rtol=0.02)


def test_log_probabilities_of_a_prompt_are_left_alone() -> None:
    assert logits_delta(DenseLoRA, len(DECODE) + 3).abs().max() == 0


@pytest.mark.parametrize("prefill", [True, False])
def test_a_batch_of_base_rows_gets_nothing(prefill: bool) -> None:
    assert delta(DenseLoRA, [0, 0, 0], prefill=prefill, dtype=torch.float32).abs().max() == 0


def test_each_step_forgets_the_groups_of_the_one_before() -> None:
    wrapper = DenseLoRA(64, 64, "cpu")
    for adapters in ([11, 11], [0, 12]):
        mapping = LoRAMapping(tuple(adapters), tuple(adapters), is_prefill=False)
        wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
        y = torch.zeros(2, sum(SLICES))
        wrapper.add_lora_linear(y, torch.ones(2, WIDTH), *weights(torch.float32), 1.0, SLICES)
    assert y[0].abs().max() == 0
    assert y[1].abs().max() > 1


@pytest.mark.parametrize("slices", [SLICES, SLICES[:1]])
def test_an_adapter_that_vllm_writes_over_another_is_used_from_the_next_step_on(
    slices: tuple[int, ...],
) -> None:
    wrapper = DenseLoRA(64, 64, "cpu")
    mapping = LoRAMapping((13, 11), (13, 11), is_prefill=False)
    wrapper.update_metadata(mapping, ADAPTER_OF_SLOT, SLOTS + 1, 100)
    a, b = (stacked[: len(slices)] for stacked in weights(torch.float32))
    other_rows = []
    for loaded in (None, 2.0, 3.0):  # vLLM loads outside of inference mode
        if loaded:
            for own_a, own_b in zip(a, b, strict=True):
                own_a[4] = 0.0  # vLLM empties a slot, then fills less than its rank
                own_b[4, 0, :, :2].copy_(torch.full_like(own_b[4, 0, :, :2], loaded))
                own_a[4, 0, :2].copy_(torch.ones(2, WIDTH))
        with torch.inference_mode():
            y = torch.zeros(2, sum(slices))
            wrapper.add_lora_linear(y, torch.ones(2, WIDTH), a, b, 1.0, slices)
        other_rows.append(y[1])
        if loaded:
            torch.testing.assert_close(y[0], torch.full_like(y[0], loaded * 2 * WIDTH))
    assert all(torch.equal(y, other_rows[0]) for y in other_rows)
    assert len(wrapper._layers) == 1


def test_adjacent_rows_are_a_slice_and_scattered_rows_an_index() -> None:
    first, second = grouped(torch.tensor([2, 0, 0, 2, -1]))
    assert (first.slot, first.rows) == (0, slice(1, 3))
    assert second.slot == 2
    assert torch.equal(torch.as_tensor(second.rows), torch.tensor([0, 3]))


def test_the_platform_names_the_dense_wrapper() -> None:
    platform = type("Platform", (CPU,), {})
    install(platform, "0.32.0")
    assert platform.get_punica_wrapper() == DENSE


@pytest.mark.parametrize(
    ("sharded", "off", "compiled"),
    [(False, False, True), (False, True, False), (True, False, False)],
)
def test_a_model_with_lora_is_compiled_unless_it_is_sharded_or_nothing_is_compiled(
    sharded: bool, off: bool, compiled: bool
) -> None:
    platform = type("Platform", (CPU,), {})
    lora = SimpleNamespace(fully_sharded_loras=sharded)
    config = SimpleNamespace(lora_config=lora, compiled=None, **NO_MODEL)
    platform.check_and_update_config(config)
    assert not config.compiled
    install(platform, "0.32.0")
    with patch.dynamo.patch(disable=off):
        platform.check_and_update_config(config)
    assert (config.lora_config, config.compiled) == (lora, compiled)


def test_a_model_without_lora_is_compiled_as_before() -> None:
    platform = type("Platform", (CPU,), {})
    install(platform, "0.32.0")
    config = SimpleNamespace(lora_config=None, compiled=None, **NO_MODEL)
    platform.check_and_update_config(config)
    assert config == SimpleNamespace(lora_config=None, compiled=True, **NO_MODEL)


def test_registering_a_second_time_logs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    platform = type("Platform", (CPU,), {"is_cpu": lambda self: True})
    monkeypatch.setattr(patch, "current_platform", platform())
    monkeypatch.setattr("vllm.__version__", "0.32.0")
    patch.register()
    assert platform.get_punica_wrapper() == DENSE
    with caplog.at_level(logging.WARNING, "vllm.tempo"):
        patch.register()
    assert caplog.records == []


@pytest.mark.parametrize("has_amx", [True, False])
def test_a_worker_asks_linux_for_amx_where_the_processor_has_it(
    has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    platform = type("Platform", (CPU,), {"is_cpu": lambda self: True})
    monkeypatch.setattr(patch, "current_platform", platform())
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr("torch.cpu._init_amx", lambda: requests.append("amx"))
    patch.register()
    assert requests == ["amx"] * has_amx


def test_another_platform_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = type("Platform", (CPU,), {"is_cpu": lambda self: False})
    monkeypatch.setattr(patch, "current_platform", platform())
    patch.register()
    assert platform.get_punica_wrapper() == STOCK


def test_another_version_of_vllm_keeps_its_own_operators(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vllm.tempo"):
        install(CPU, "0.33.0")
    assert CPU.get_punica_wrapper() == STOCK
    [line] = [record.getMessage() for record in caplog.records]
    assert "vLLM is 0.33.0, not 0.32.x" in line


def test_a_vllm_with_other_parameters_keeps_its_own_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(patch.PARAMETERS, "add_lora_linear", "self y x")
    install(CPU, "0.32.1")
    assert CPU.get_punica_wrapper() == STOCK


def test_the_wrapper_of_another_plugin_stays() -> None:
    class Theirs(CPU):
        @classmethod
        def get_punica_wrapper(cls) -> str:
            return "their.Wrapper"

    install(Theirs, "0.32.0")
    assert Theirs.get_punica_wrapper() == "their.Wrapper"
