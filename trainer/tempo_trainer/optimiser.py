"""AdamW that never applies a step it cannot trust."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class Update:
    """One optimiser step: its loss, the norm of its gradient before clipping, and its fate."""

    loss: float
    grad_norm: float
    applied: bool


class Optimiser:
    """AdamW without weight decay, with a constant step size per group and a clipped gradient."""

    def __init__(
        self,
        groups: Iterable[tuple[list[Parameter], float]],
        *,
        betas: tuple[float, float],
        grad_clip: float,
    ) -> None:
        self._adam = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for parameters, rate in groups],
            betas=betas,
            weight_decay=0.0,
            fused=True,
        )
        self._grad_clip = grad_clip

    def step(self, loss: float) -> Update:
        """Apply the gathered gradients, unless loss or gradient is not finite, and forget them."""
        parameters = [p for group in self._adam.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._grad_clip))
        applied = math.isfinite(loss) and math.isfinite(norm)
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
