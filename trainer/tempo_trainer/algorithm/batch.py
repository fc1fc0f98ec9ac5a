"""Rollouts and the padded tensors made of them: prompt and response in one row, padded right.

Causal attention never looks to the right, so that padding changes nothing that is read, and no
attention mask is needed. Token ids are those that vLLM sampled: nothing is tokenised again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tempo_storage.errors import TempoError
from tempo_trainer.algorithm.objective import positions


class EmptyBatchError(TempoError, ValueError):
    """No rollout has a response token; sample again."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response, with the adapter that sampled it and its log-probabilities there."""

    question_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    logprobs: Sequence[float]
    group: int
    adapter: str
    finish_reason: str
    labeled: bool
    outcome: float = math.nan
    """The verifier's verdict, -1 or +1; not a number for an unlabeled question."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rollouts as tensors; B rollouts, S tokens of the longest row, T of the longest response."""

    ids: Tensor  # (B, S) prompt, response, padding
    attention: Tensor  # (B, S) True on prompt and response
    positions: Tensor  # (B, T) the position in `ids` whose hidden state predicts response token t
    mask: Tensor  # (B, T) 1.0 on response tokens, the end-of-sequence token included
    tokens: Tensor  # (B, T) response token ids
    outcome: Tensor  # (B,) -1 or +1, not a number where unlabeled
    labeled: Tensor  # (B,) bool
    group: Tensor  # (B,) rollouts of one question share it
    sampled_logprobs: Tensor  # (B, T) as vLLM reported them, 0 on padding
    truncated: Tensor  # (B,) bool: cut at the length limit, without an end-of-sequence token

    @classmethod
    def collate(cls, rollouts: Sequence[Rollout], pad_id: int) -> Batch:
        """Pad rollouts to a batch; empty responses are dropped, since they have no token mean."""
        rows = [rollout for rollout in rollouts if len(rollout.response_ids)]
        if not rows:
            raise EmptyBatchError(
                f"all {len(rollouts)} rollouts have empty responses; sample again, or ask questions"
                " that leave room for a response within --max-model-len"
            )
        prompt_lengths = torch.tensor([len(row.prompt_ids) for row in rows])
        response_lengths = torch.tensor([len(row.response_ids) for row in rows])
        return cls(
            ids=_pad([[*row.prompt_ids, *row.response_ids] for row in rows], pad_id),
            attention=_until(prompt_lengths + response_lengths),
            positions=positions(prompt_lengths, response_lengths),
            mask=_until(response_lengths).float(),
            tokens=_pad([row.response_ids for row in rows], pad_id),
            outcome=torch.tensor([row.outcome for row in rows]),
            labeled=torch.tensor([row.labeled for row in rows]),
            group=torch.tensor([row.group for row in rows]),
            sampled_logprobs=_pad([row.logprobs for row in rows], 0.0),
            truncated=torch.tensor([row.finish_reason == "length" for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, index: Tensor) -> Batch:
        """Return the rows that an index or a bool mask picks, cut to the longest of them."""
        picked: dict[str, Tensor] = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        row, response = (int(picked[name].sum(1).max()) for name in ("attention", "mask"))
        for name, tensor in picked.items():
            if tensor.dim() == 2:
                picked[name] = tensor[:, : row if name in ("ids", "attention") else response]
        return Batch(**picked)

    def concatenate(self, other: Batch) -> Batch:
        """Return the rows of both; the other's groups are numbered on, so that none are joined."""
        shift = int(self.group.max()) + 1 - int(other.group.min())
        parts = self, replace(other, group=other.group + shift)
        return Batch(**{f.name: _stack(*(getattr(p, f.name) for p in parts)) for f in fields(self)})

    def micro_batches(self, max_tokens: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield row numbers and rows, long rows first, at most `max_tokens` padded tokens at once.

        The plan depends on lengths alone: two passes over one batch are cut alike.
        """
        lengths = self.attention.sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        start = 0
        while start < len(order):
            count = max(1, max_tokens // int(lengths[order[start]]))
            rows = order[start : start + count]
            yield rows, self.select(rows)
            start += count

    def minibatches(self, count: int) -> list[Tensor]:
        """Return the row numbers of at most `count` minibatches of whole groups, in order."""
        groups = torch.tensor(sorted(set(self.group.tolist())))
        parts = torch.tensor_split(groups, min(count, len(groups)))
        return [torch.isin(self.group, part).nonzero()[:, 0] for part in parts]

    def informative(self) -> Tensor:
        """Return a bool per row: false where all outcomes of the group are alike."""
        alike = (self.outcome == self.outcome[:, None]) | (self.group != self.group[:, None])
        return ~alike.all(1)


def read(forward: Callable[[Batch], Tensor], batch: Batch, max_tokens: int) -> Tensor:
    """Return what `forward` says of a whole batch (B, T), without gradient."""
    found = torch.zeros_like(batch.mask)
    with torch.no_grad():
        for rows, micro in batch.micro_batches(max_tokens):
            found[rows, : micro.mask.shape[1]] = forward(micro)
    return found


def _pad(rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], value: float) -> Tensor:
    tensors = [torch.tensor(list(row)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _until(lengths: Tensor) -> Tensor:
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _stack(first: Tensor, second: Tensor) -> Tensor:
    if first.dim() == 1:
        return torch.cat([first, second])
    return pad_sequence([*first, *second], batch_first=True)
