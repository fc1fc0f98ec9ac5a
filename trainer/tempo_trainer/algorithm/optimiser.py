"""AdamW that never applies a step it cannot trust."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter

from tempo_trainer.settings import TrainerSettings

Groups = Iterable[tuple[list[Parameter], float]]
"""Parameters, and the step size that they share."""


@dataclass(frozen=True, slots=True)
class Update:
    """One optimiser step: its loss, the norm of its gradient before clipping, and its fate."""

    loss: float
    grad_norm: float
    applied: bool


class Optimiser:
    """AdamW without weight decay, with a constant step size per group and a clipped gradient."""

    def __init__(self, groups: Groups, settings: TrainerSettings) -> None:
        parts = [{"params": parameters, "lr": rate} for parameters, rate in groups]
        betas = (settings.adam_beta1, settings.adam_beta2)
        self._adam = torch.optim.AdamW(parts, betas=betas, weight_decay=0.0, fused=True)
        self._grad_clip = settings.grad_clip
        self.discarded = 0
        """Steps in a row, up to now, that could not be trusted."""

    def parameters(self) -> list[Parameter]:
        """Return what is optimised."""
        return [p for group in self._adam.param_groups for p in group["params"]]

    def step(self, loss: float) -> Update:
        """Apply the gathered gradients, unless loss or gradient is not finite, and forget them."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters(), self._grad_clip))
        applied = math.isfinite(loss) and math.isfinite(norm)
        self.discarded = 0 if applied else self.discarded + 1
        if applied:
            self._adam.step()
        self._adam.zero_grad()
        return Update(loss, norm, applied)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the count of steps, copied to the CPU."""
        state = self._adam.state_dict()
        moments = {
            index: {name: tensor.detach().cpu().clone() for name, tensor in values.items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, but keep the step sizes of the settings."""
        groups = [
            {**saved, "lr": now["lr"], "betas": now["betas"]}
            for saved, now in zip(state["param_groups"], self._adam.param_groups, strict=True)
        ]
        # Copied, since torch would go on in the caller's own tensors.
        self._adam.load_state_dict(copy.deepcopy({**state, "param_groups": groups}))
