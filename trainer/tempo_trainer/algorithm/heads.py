"""Log-probabilities of tokens, and values, from the base's hidden states."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LOGITS_AT_ONCE = 2**27
"""Elements of the largest piece of logits; in float32 it takes half a GiB."""


class TokenLogprobs(torch.autograd.Function):
    """log softmax(h Wᵀ)[y] for a frozen W, `rows` tokens at a time.

    The gradient by h, W[y] − softmax(h Wᵀ) W, is formed in the forward pass, so that no logits are
    kept: they are (N, V), and V is often above 100,000.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, rows: int) -> Tensor:
        logprobs: list[Tensor] = []
        slopes: list[Tensor] = []  # the gradient of each token's log-probability by its state
        for h, y in zip(torch.split(hidden, rows), torch.split(tokens, rows), strict=True):
            full = (h @ weight.T).float().log_softmax(-1)  # (rows, V)
            logprobs.append(full.gather(1, y[:, None])[:, 0])
            if ctx.needs_input_grad[0]:
                slopes.append(weight[y] - full.exp().to(weight.dtype) @ weight)  # (rows, H)
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, None] * slopes).to(slopes.dtype), None, None, None


class ValueHead(nn.Module):
    """V = w · h / (rms(h) √H) + b in float32; w and b begin at 0.

    The features have norm one, so that a step of Adam moves V alike in small and large models.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N"]:
        return nn.functional.normalize(hidden.float(), dim=-1) @ self.weight + self.bias


def token_logprobs(
    hidden: Float[Tensor, "N H"], weight: Float[Tensor, "V H"], tokens: Int[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Return log softmax(h Wᵀ)[y] for each row, in pieces that fit in memory."""
    rows = max(1, LOGITS_AT_ONCE // len(weight))
    apply: Callable[..., Tensor] = TokenLogprobs.apply
    return apply(hidden, weight, tokens, rows)
