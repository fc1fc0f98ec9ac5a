"""LoRA on the CPU by dense products: two products for each adapter in the batch and each layer.

Only vLLM's workers import this module, by the name that `patch` gives to the platform. It groups a
batch's rows by adapter once per step, in Python, where vLLM's compiler does not look: the compiler
sees a layer's products as one operator, `tempo::add_lora_linear`. vLLM's own code serves fully
sharded layers.

Notation: x (rows, inputs) enters a layer, y (rows, outputs) leaves it, A (rank, inputs) and
B (outputs, rank) are an adapter's matrices. vLLM stacks the matrices of all slots; a slot is the
place of a loaded adapter. A layer that joins several projections has one A and one B for each.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm import _custom_ops as vllm_ops
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.utils.torch_utils import direct_register_custom_op

HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(n) for n in ("avx512_bf16", "amx_bf16", "bf16"))
"""Without these instructions, bfloat16 products of few rows take six to twenty times as long."""
MANY_ROWS = 96
"""From so many rows on, one product that adds is faster than a packed one and an addition."""
PRIMITIVES = 32
"""Batch sizes whose oneDNN kernels a product keeps, as in vLLM's own layers."""
Product = Callable[[Tensor], Tensor]
Tensors = tuple[Tensor, ...]


class Group(NamedTuple):
    """The rows of a batch that one slot's adapter answers; `rows` is None for all of them."""

    slot: int
    rows: slice | Tensor | None


def grouped(slots: Tensor) -> list[Group]:
    """Return the groups of a batch, given the slot of each row; -1 means no adapter, so no group.

    The rows are a slice where they are adjacent.
    """
    groups: list[Group] = []
    for slot in sorted(set(slots.tolist()) - {-1}):
        rows = (slots == slot).nonzero().flatten()
        first, last = int(rows[0]), int(rows[-1])
        is_adjacent = last - first + 1 == len(rows)
        own = slice(first, last + 1) if is_adjacent else rows
        groups.append(Group(slot, None if len(rows) == len(slots) else own))
    return groups


class Layer:
    """A layer's stacked matrices, into which vLLM writes adapters, and the products with them."""

    def __init__(self, stacked_a: Sequence[Tensor], stacked_b: Sequence[Tensor]) -> None:
        self.stacked_a = stacked_a
        self.stacked_b = stacked_b
        self.outputs = sum(b.shape[2] for b in stacked_b)
        self._version = 0
        self._products: dict[int, tuple[Product, Product, Tensor]] = {}

    def add(self, y: Tensor, x: Tensor, slot: int, scale: float) -> None:
        """Add scale · x Aᵀ Bᵀ (rows, outputs) to `y`."""
        # vLLM empties all matrices of a layer before it writes an adapter; that raises _version.
        version = self.stacked_a[0]._version
        if version != self._version:
            self._products.clear()
            self._version = version
        products = self._products.get(slot)
        if products is None:
            products = self._products[slot] = self._pack(slot)
        shrink, expand, b = products
        shrunk = shrink(x)  # (rows, rank)
        if len(x) >= MANY_ROWS and y.dtype == shrunk.dtype == b.dtype:
            y.addmm_(shrunk, b, alpha=scale)
        else:
            y.add_(expand(shrunk), alpha=scale)

    def _pack(self, slot: int) -> tuple[Product, Product, Tensor]:
        """Join the projections into one A and one block-diagonal B, packed for oneDNN."""
        a = torch.cat([stacked[slot, 0] for stacked in self.stacked_a])
        b = torch.block_diag(*(stacked[slot, 0] for stacked in self.stacked_b))
        if not (HAS_BFLOAT16 and a.dtype == torch.bfloat16):
            a, b = a.float(), b.float()
        return _product(a), _product(b), b.T


def _product(weight: Tensor) -> Product:
    """Return x ↦ x weightᵀ in x's precision; the weight is packed as vLLM packs its own."""
    if not vllm_ops._supports_onednn:
        return lambda x: (x.to(weight.dtype) @ weight.T).to(x.dtype)
    packed = vllm_ops.create_onednn_mm(weight.T, PRIMITIVES)
    multiply = torch.ops._C.onednn_mm.default

    def product(x: Tensor) -> Tensor:
        y = weight.new_empty(len(x), len(weight))
        multiply(y, x.to(weight.dtype), None, packed.handler_tensor)
        return y.to(x.dtype)

    return product


class DenseLoRA(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with other products for linear layers and for the logits.

    vLLM passes the arguments by position; `patch` compares their names with vLLM's.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._groups: list[Group] = []
        self._sampled_groups: list[Group] = []
        self._layers: dict[int, Layer] = {}
        self.number = len(_wrappers)
        _wrappers.append(self)

    def update_metadata(self, *arguments: Any, **keywords: Any) -> None:
        """Take a step's mapping of rows to slots."""
        super().update_metadata(*arguments, **keywords)
        self._groups = grouped(self.token_lora_indices)
        self._sampled_groups = grouped(self.sampler_indices)

    def add_lora_linear(
        self, y: Tensor, x: Tensor, a: Tensors, b: Tensors, scale: float, *_: Any, **__: Any
    ) -> None:
        """Add scale · x Aᵀ Bᵀ, with the row's own adapter, to each row of `y`; all projections."""
        torch.ops.tempo.add_lora_linear(y, x, list(a), list(b), scale, self.number)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, b: Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """Add x Bᵀ with vLLM's operator; `x` is 0 if no adapter has an embedding's A."""
        torch.ops.tempo.add_lora_embedding(y, x, b, add_inputs, self.number)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, **_: Any
    ) -> None:
        """Add the adapters' logits, but not to the log-probabilities of a prompt.

        For those, `x` has a row for each of the prompt's tokens, while the mapping has one for each
        request; vLLM's operator fails on that and ends the engine. Our adapters have no logits.
        """
        groups = [group for group in self._sampled_groups if a[group.slot].any()]
        if groups and len(x) == len(self.sampler_indices):
            _add(y, x, self._layer([a], [b]), scale, groups)

    def linear(self, y: Tensor, x: Tensor, a: list[Tensor], b: list[Tensor], scale: float) -> None:
        """Compute `add_lora_linear`, outside of the compiler's sight."""
        if self._groups:
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            _add(y, x, self._layer(a, b), scale, self._groups)

    def embedding(self, y: Tensor, x: Tensor, b: Tensor, add_inputs: bool) -> None:
        """Compute `add_lora_embedding`, outside of the compiler's sight."""
        if not add_inputs or x.any():
            super().add_lora_embedding(y, x, b, add_inputs)

    def _layer(self, stacked_a: Sequence[Tensor], stacked_b: Sequence[Tensor]) -> Layer:
        address = stacked_a[0].data_ptr()
        layer = self._layers.get(address)
        if layer is None:
            layer = self._layers[address] = Layer(stacked_a, stacked_b)
        return layer


def _add(y: Tensor, x: Tensor, layer: Layer, scale: float, groups: Sequence[Group]) -> None:
    """Add the adapters' products to the rows of their groups; `y` may have more columns."""
    outputs = y[:, : layer.outputs]
    for slot, rows in groups:
        if rows is None:
            layer.add(outputs, x, slot, scale)
        else:
            sums = outputs[rows]  # a view of adjacent rows, else a copy
            layer.add(sums, x[rows], slot, scale)
            if not isinstance(rows, slice):
                outputs[rows] = sums


_wrappers: list[DenseLoRA] = []
"""All wrappers. A compiled graph names a wrapper by its index, which is the same at each start."""
_library = torch.library.Library("tempo", "DEF")


def _add_lora_linear(
    y: Tensor, x: Tensor, a: list[Tensor], b: list[Tensor], scale: float, wrapper: int
) -> None:
    _wrappers[wrapper].linear(y, x, a, b, scale)


def _add_lora_embedding(y: Tensor, x: Tensor, b: Tensor, add_inputs: bool, wrapper: int) -> None:
    _wrappers[wrapper].embedding(y, x, b, add_inputs)


for _operator in (_add_lora_linear, _add_lora_embedding):
    direct_register_custom_op(
        _operator.__name__.removeprefix("_"),
        _operator,
        mutates_args=["y"],
        fake_impl=lambda *_: None,
        target_lib=_library,
        dispatch_key="CPU",
    )
