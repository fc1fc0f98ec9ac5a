"""LoRA on the CPU by dense products: two per adapter in the batch and layer.

Imported by vLLM's workers only, by the name that `cpu_lora` gives to the platform. The rows of a
batch are grouped by adapter once per step, in Python: with LoRA vLLM's CPU backend runs the model
eagerly, so no graph holds one step's groups. Embeddings and fully sharded layers stay with the
stock operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(n) for n in ("avx512_bf16", "amx_bf16", "bf16"))
"""Without its instructions thin products in bfloat16 take six to twenty times as long."""
FEW_ROWS = 16
"""Below it products in float32 are the faster ones even with the instructions."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of a batch that one adapter answers; a slice where they are adjacent."""

    slot: int
    rows: slice | Tensor


Weights = list[tuple[Tensor, Tensor]]
"""A layer's adapters, by slot: Aᵀ (in, slices · rank) and Bᵀ (slices · rank, out)."""


def grouped(slots: Tensor) -> list[Group]:
    """Return the groups of a batch, given each row's slot; -1 means no adapter, so no group."""
    found = []
    for slot in sorted(set(slots.tolist()) - {-1}):
        rows = (slots == slot).nonzero().flatten()
        first, last = int(rows[0]), int(rows[-1])
        adjacent = last - first + 1 == len(rows)
        found.append(Group(slot, slice(first, last + 1) if adjacent else rows))
    return found


def joined(slices_a: Sequence[Tensor], slices_b: Sequence[Tensor]) -> Weights:
    """Move a layer's slices into one A and one B with a block for each, and make them views.

    So vLLM, which writes adapters into the slices, writes into what is multiplied with. The zeros
    between B's blocks take twice its memory in a layer of three slices.
    """
    slots, _, rank, inputs = slices_a[0].shape
    ranks, outputs = len(slices_a) * rank, sum(b.shape[2] for b in slices_b)
    whole_a = slices_a[0].new_zeros(slots, ranks, inputs)
    whole_b = slices_b[0].new_zeros(slots, outputs, ranks)
    out = 0
    for index, (a, b) in enumerate(zip(slices_a, slices_b, strict=True)):
        own = slice(index * rank, (index + 1) * rank)
        _move(a, whole_a[:, None, own])
        _move(b, whole_b[:, None, out : out + b.shape[2], own])
        out += b.shape[2]
    return [(a.T, b.T) for a, b in zip(whole_a, whole_b, strict=True)]


def _move(tensor: Tensor, place: Tensor) -> None:
    place.copy_(tensor)
    # Not `.data`: joined within inference mode, it would refuse what vLLM writes outside of it.
    tensor.set_(place.untyped_storage(), place.storage_offset(), place.shape, place.stride())


class DenseLoRA(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with another product for linear layers and for the logits."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []
        self._layers: dict[int, Weights] = {}

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
        if self._groups:
            outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            weights = self._weights(lora_a_stacked, lora_b_stacked)
            _add(outputs[:, : sum(output_slices)], inputs, weights, scale, self._groups)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """Add x Bᵀ, by the stock operator; `x` is 0 where no adapter has an embedding's A."""
        if not add_inputs or x.any():
            super().add_lora_embedding(y, x, lora_b_stacked, add_inputs)

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
            weights = self._weights([lora_a_stacked], [lora_b_stacked])
            _add(y[:, : lora_b_stacked.shape[2]], x, weights, scale, groups)

    def _weights(self, slices_a: Sequence[Tensor], slices_b: Sequence[Tensor]) -> Weights:
        """Return a layer's weights, joined when they are first asked for."""
        weights = self._layers.get(slices_a[0].data_ptr())
        if weights is None:
            weights = joined(slices_a, slices_b)
            self._layers[slices_a[0].data_ptr()] = weights  # where the first slice is by now
        return weights


def _add(y: Tensor, x: Tensor, weights: Weights, scale: float, groups: Sequence[Group]) -> None:
    """Add scale · x Aᵀ Bᵀ to the rows of each group, rounded as in the stock operators."""
    for group in groups:
        own, sums = x[group.rows], y[group.rows]  # of adjacent rows views, else copies
        a, b = weights[group.slot]
        quick = torch.bfloat16 if HAS_BFLOAT16 and len(own) >= FEW_ROWS else torch.float32
        if y.dtype == own.dtype == a.dtype and y.dtype in (quick, torch.float32):
            sums.addmm_(own @ a, b, alpha=scale)
        else:
            shrunk = (scale * (own.float() @ a.float())).to(y.dtype)
            sums += shrunk.float() @ b.float()
        if not isinstance(group.rows, slice):
            y[group.rows] = sums
