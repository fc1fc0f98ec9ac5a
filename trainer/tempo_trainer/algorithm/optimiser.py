"""AdamW that discards a step whose loss or gradient is not finite."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter

from tempo_trainer.settings import TrainerSettings

Groups = Iterable[tuple[list[Parameter], float]]
"""Lists of parameters, each with the step size that its parameters share."""


@dataclass(frozen=True, slots=True)
class Update:
    """One optimiser step: its loss, and the norm of its gradient before clipping."""

    loss: float
    grad_norm: float
    applied: bool


class Optimiser:
    """AdamW without weight decay, with a constant step size per group and a clipped gradient."""

    def __init__(self, groups: Groups, settings: TrainerSettings) -> None:
        rates = [{"params": parameters, "lr": rate} for parameters, rate in groups]
        betas = (settings.adam_beta1, settings.adam_beta2)
        self._adam = torch.optim.AdamW(rates, betas=betas, weight_decay=0.0, fused=True)
        self._grad_clip = settings.grad_clip
        self.discarded = 0
        """Number of the last steps in a row that were discarded."""

    def parameters(self) -> list[Parameter]:
        """Return the parameters that are optimised."""
        return [p for group in self._adam.param_groups for p in group["params"]]

    def step(self, loss: float) -> Update:
        """Apply the gradients if they and the loss are finite, then clear them in either case."""
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
        # Copied, because torch would go on to write into the caller's own tensors.
        self._adam.load_state_dict(copy.deepcopy({**state, "param_groups": groups}))
