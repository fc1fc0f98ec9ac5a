"""LoRA on the CPU by dense products: two per adapter in the batch and layer.

Imported by vLLM's workers only, by the name that `cpu_lora` gives to the platform. The rows of a
batch are grouped by adapter once per step, in Python, where vLLM's compiler does not look: to it a
layer's products are one operator, `tempo::add_lora_linear`. Fully sharded layers stay with stock.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm import _custom_ops as vllm_ops
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.utils.torch_utils import direct_register_custom_op

HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(n) for n in ("avx512_bf16", "amx_bf16", "bf16"))
"""Without its instructions thin products in bfloat16 take six to twenty times as long."""
MANY_ROWS = 96
"""From here on one product that adds is faster than a packed one and an addition."""
PRIMITIVES = 32
"""Sizes of a batch whose oneDNN kernels a product remembers, as in vLLM's own layers."""
Product = Callable[[Tensor], Tensor]


class Group(NamedTuple):
    """The rows of a batch that one adapter answers: None for all, a slice if adjacent."""

    slot: int
    rows: slice | Tensor | None


def grouped(slots: Tensor) -> list[Group]:
    """Return the groups of a batch, given each row's slot; -1 means no adapter, so no group."""
    found: list[Group] = []
    for slot in sorted(set(slots.tolist()) - {-1}):
        rows = (slots == slot).nonzero().flatten()
        first, last = int(rows[0]), int(rows[-1])
        adjacent = last - first + 1 == len(rows)
        own = slice(first, last + 1) if adjacent else rows
        found.append(Group(slot, None if len(rows) == len(slots) else own))
    return found


class Layer:
    """A layer's adapters: the slices that vLLM writes them into, and what is multiplied with."""

    def __init__(self, slices_a: Sequence[Tensor], slices_b: Sequence[Tensor]) -> None:
        self.slices_a, self.slices_b = slices_a, slices_b
        self.width = sum(b.shape[2] for b in slices_b)
        self._version = 0
        self._products: dict[int, tuple[Product, Product, Tensor]] = {}

    def add(self, y: Tensor, x: Tensor, slot: int, scale: float) -> None:
        """Add scale · x Aᵀ Bᵀ, (rows, width), to `y`."""
        version = self.slices_a[0]._version  # vLLM empties all of a layer's slices before it writes
        if version != self._version:
            self._products.clear()
            self._version = version
        products = self._products.get(slot)
        if products is None:
            products = self._products[slot] = self._pack(slot)
        shrink, expand, b = products
        shrunk = shrink(x)
        if len(x) >= MANY_ROWS and y.dtype == shrunk.dtype == b.dtype:
            y.addmm_(shrunk, b, alpha=scale)
        else:
            y.add_(expand(shrunk), alpha=scale)

    def _pack(self, slot: int) -> tuple[Product, Product, Tensor]:
        """Join the slices into one A and one B with a block for each, laid out for oneDNN."""
        a = torch.cat([own[slot, 0] for own in self.slices_a])
        b = torch.block_diag(*(own[slot, 0] for own in self.slices_b))
        if not (HAS_BFLOAT16 and a.dtype == torch.bfloat16):
            a, b = a.float(), b.float()
        return _product(a), _product(b), b.T


def _product(weight: Tensor) -> Product:
    """Return x ↦ x weightᵀ, rounded to x's precision, with the weight packed as vLLM's own are."""
    if not vllm_ops._supports_onednn:
        return lambda x: (x.to(weight.dtype) @ weight.T).to(x.dtype)
    packed = vllm_ops.create_onednn_mm(weight.T, PRIMITIVES)
    multiply, outputs = torch.ops._C.onednn_mm.default, len(weight)

    def product(x: Tensor) -> Tensor:
        y, same = weight.new_empty(len(x), outputs), x.dtype == weight.dtype
        multiply(y, x if same else x.to(weight.dtype), None, packed.handler_tensor)
        return y if same else y.to(x.dtype)

    return product


class DenseLoRA(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with another product for linear layers and for the logits."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []
        self._layers: dict[int, Layer] = {}
        self.number = len(_wrappers)
        _wrappers.append(self)

    def update_metadata(self, *arguments: Any, **keywords: Any) -> None:
        """Take a step's mapping of rows to slots."""
        super().update_metadata(*arguments, **keywords)
        self._groups = grouped(self.token_lora_indices)
        self._sampled = grouped(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **_: Any,
    ) -> None:
        """Add scale · x Aᵀ Bᵀ of its own adapter to each row of `y`, all slices at once."""
        a, b = list(lora_a_stacked), list(lora_b_stacked)
        torch.ops.tempo.add_lora_linear(y, x, a, b, scale, self.number)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """Add x Bᵀ, by the stock operator; `x` is 0 where no adapter has an embedding's A."""
        torch.ops.tempo.add_lora_embedding(y, x, lora_b_stacked, add_inputs, self.number)

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        *,
        buffer: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Add the logits' delta, but not to log-probabilities of a prompt.

        Those come with a row for each of the prompt's tokens where the mapping has one for each
        request; the stock operator dies of that, with the engine. Our adapters leave logits alone.
        """
        groups = [group for group in self._sampled if lora_a_stacked[group.slot].any()]
        if groups and len(x) == len(self.sampler_indices):
            _add(y, x, self._layer([lora_a_stacked], [lora_b_stacked]), scale, groups)

    def linear(self, y: Tensor, x: Tensor, a: list[Tensor], b: list[Tensor], scale: float) -> None:
        """Do what `add_lora_linear` says."""
        if self._groups:
            if y.dim() > 2:
                y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            _add(y, x, self._layer(a, b), scale, self._groups)

    def embedding(self, y: Tensor, x: Tensor, b: Tensor, add_inputs: bool) -> None:
        """Do what `add_lora_embedding` says."""
        if not add_inputs or x.any():
            super().add_lora_embedding(y, x, b, add_inputs)

    def _layer(self, slices_a: Sequence[Tensor], slices_b: Sequence[Tensor]) -> Layer:
        place = slices_a[0].data_ptr()
        layer = self._layers.get(place)
        if layer is None:
            layer = self._layers[place] = Layer(slices_a, slices_b)
        return layer


def _add(y: Tensor, x: Tensor, layer: Layer, scale: float, groups: Sequence[Group]) -> None:
    """Add its delta to the rows of each group; `y` may be wider."""
    outputs = y if y.shape[1] == layer.width else y[:, : layer.width]
    for slot, rows in groups:
        if rows is None:
            layer.add(outputs, x, slot, scale)
        else:
            sums = outputs[rows]  # of adjacent rows a view, else a copy
            layer.add(sums, x[rows], slot, scale)
            if not isinstance(rows, slice):
                outputs[rows] = sums


_wrappers: list[DenseLoRA] = []
"""By the number that stands for each in a compiled graph, the same whenever a model is served."""
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
