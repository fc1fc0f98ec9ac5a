"""The golden vectors of the specification, and small tensors on which the formulas are tested."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempo_trainer.algorithm import objective

FILE = Path(__file__).parents[1] / "unit" / "trainer" / "golden.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text())
CLIP = {"low": 3e-4, "high": 5e-4}


def tensor(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


def close(actual: Tensor, expected: Any) -> None:
    """Fail unless two tensors agree to five digits."""
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-5, atol=1e-5)


def some_rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, advantages and a mask of three rows with 5, 3 and 1 tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    logprobs = -torch.rand(3, 5, generator=generator) - 0.1
    return logprobs * mask, torch.randn(3, 5, generator=generator) * mask, mask


def policy_gradient(
    logprobs: Tensor, old: Tensor, a: Tensor, mask: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return the policy's loss and its gradient by the log-probabilities."""
    lp = logprobs.clone().requires_grad_()
    options = {**CLIP, "denominator": len(mask), **options}
    loss = objective.policy_loss(lp, old, a, mask, torch.ones_like(mask), **options)
    return loss, torch.autograd.grad(loss, lp)[0]
