"""Two critics that learn from different responses; where they disagree, the reward is lower.

AsyPPO (arXiv:2510.01656) splits the responses to each question evenly over its critics.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tempo_trainer.algorithm import objective
from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.metrics import correlation


class Scorer(Protocol):
    """Everything that gives values to tokens, as a critic does."""

    def values(self, batch: Batch) -> Tensor:
        """Return the value before each response token (B, T), 0 on padding."""


class TwoCritics:
    """The mean of two critics. At the last token, V = mean − `weight` · |V₁ − V₂|.

    The value at the last token is the reward of an unlabeled response.
    """

    def __init__(self, first: Scorer, second: Scorer, *, weight: float) -> None:
        self._critics = (first, second)
        self._weight = weight

    def values(self, batch: Batch) -> Tensor:
        """Return V (B, T), 0 on padding."""
        first, second = (critic.values(batch) for critic in self._critics)
        last = batch.mask.sum(1).long()[:, None] - 1  # (B, 1)
        is_last = torch.zeros_like(batch.mask).scatter(1, last, 1.0)
        return (first + second) / 2 - self._weight * (first - second).abs() * is_last

    def disagreement(self, batch: Batch, max_tokens: int) -> dict[str, float]:
        """Return the mean of |V₁ − V₂| at the last token, and its correlation with the error.

        The error is the distance of the mean of both from the outcome.
        """
        first, second = (
            objective.last_values(forward_no_grad(critic.values, batch, max_tokens), batch.mask)
            for critic in self._critics
        )
        apart = (first - second).abs().numpy()
        error = ((first + second) / 2 - batch.outcome).abs().numpy()
        return {"spread": float(np.mean(apart)), "spread_error": correlation(apart, error)}


def half(batch: Batch, part: int) -> Batch:
    """Return every other response to each question, from the first (0) or the second one (1)."""
    same = (batch.group[:, None] == batch.group).long()  # (B, B)
    place = same.tril().sum(1) - 1  # (B,): the number of earlier responses to the question
    return batch.select(place % 2 == part)
