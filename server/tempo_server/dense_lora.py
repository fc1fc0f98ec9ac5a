"""LoRA on the CPU by dense products: two per adapter in the batch and slice of a layer.

Imported by vLLM's workers only, by the name that `cpu_lora` gives to the platform. The rows of a
batch are grouped by adapter once per step, in Python: with LoRA vLLM's CPU backend runs the model
eagerly, so no graph holds one step's groups. Embeddings and fully sharded layers stay with the
stock operators.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of a batch that one adapter answers; a slice where they are adjacent."""

    slot: int
    rows: slice | Tensor


def grouped(slots: Tensor) -> list[Group]:
    """Return the groups of a batch, given each row's slot; -1 means no adapter, so no group."""
    found = []
    for slot in sorted(set(slots.tolist()) - {-1}):
        rows = (slots == slot).nonzero().flatten()
        first, last = int(rows[0]), int(rows[-1])
        adjacent = last - first + 1 == len(rows)
        found.append(Group(slot, slice(first, last + 1) if adjacent else rows))
    return found


class DenseLoRA(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with another product for linear layers and for the logits."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []

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
        """Add scale · x Aᵀ Bᵀ of its own adapter to each row of `y`, slice by slice."""
        outputs, inputs, start = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            _add(outputs[:, start : start + width], inputs, a, b, scale, self._groups)
            start += width

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
        if len(x) == len(self.sampler_indices):
            logits = y[:, : lora_b_stacked.shape[2]]
            _add(logits, x, lora_a_stacked, lora_b_stacked, scale, self._sampled)


def _add(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, groups: list[Group]) -> None:
    """Add scale · x Aᵀ Bᵀ to the rows of each group; A is (slots, 1, rank, in), B (…, out, rank).

    In float32, with x Aᵀ and the sum rounded to `y`'s dtype as in the stock operators: thin
    products in bfloat16 took six to twenty times as long on a processor without its instructions.
    """
    for group in groups:
        shrunk = scale * (x[group.rows].float() @ a[group.slot, 0].float().T)
        y[group.rows] += shrunk.to(y.dtype).float() @ b[group.slot, 0].float().T
