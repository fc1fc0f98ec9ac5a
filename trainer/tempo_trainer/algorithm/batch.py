"""Rollouts, and the padded tensors made of them: prompt and response in one row, padded right.

Causal attention never looks to the right. So padding changes no state that is read, and no
attention mask is needed. `shared_prefix.py` has the layout in which a draw's prompt is computed
once. Token ids are those that vLLM sampled: nothing is tokenised again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tempo_storage.errors import TempoError
from tempo_trainer.algorithm.objective import positions

LARGEST_SHARE = 0.8
"""Prompts are computed once per draw if that leaves at most this share of the tokens. With more of
them the two calls of attention cost more than they save."""


class EmptyBatchError(TempoError, ValueError):
    """No rollout has a response token; sample again."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response, with the log-probabilities that it had in the sampler."""

    content_hash: str
    """Hash of the question's content; the ids of questions (`q_…`) are in the ledger only."""
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    logprobs: Sequence[float]
    group: int
    finish_reason: str
    labeled: bool
    outcome: float = math.nan
    """The verifier's verdict: -1 is wrong, +1 is right. Not a number for an unlabeled question."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B rollouts as tensors; S tokens in the longest row, T in the longest response."""

    ids: Tensor  # (B, S) prompt, response, padding
    attention: Tensor  # (B, S) True on prompt and response
    positions: Tensor  # (B, T) position in `ids` of the hidden state that predicts token t
    mask: Tensor  # (B, T) 1.0 on response tokens, the end-of-sequence token included
    tokens: Tensor  # (B, T) response token ids
    outcome: Tensor  # (B,) -1 or +1; not a number where unlabeled
    labeled: Tensor  # (B,) bool
    question: Tensor  # (B,) number made of the question's content hash, the same in all batches
    group: Tensor  # (B,) number of the draw: one question's rollouts that were sampled at once
    sampled_logprobs: Tensor  # (B, T) as vLLM reported them, 0 on padding
    truncated: Tensor  # (B,) bool: cut at the length limit, without an end-of-sequence token

    @classmethod
    def collate(cls, rollouts: Sequence[Rollout], pad_id: int) -> Batch:
        """Pad rollouts to a batch. Empty responses are dropped, because they have no token mean.

        Raises EmptyBatchError if no response is left.
        """
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
            question=torch.tensor([_question_number(row.content_hash) for row in rows]),
            group=torch.tensor([row.group for row in rows]),
            sampled_logprobs=_pad([row.logprobs for row in rows], 0.0),
            truncated=torch.tensor([row.finish_reason == "length" for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, index: Tensor) -> Batch:
        """Return the rows that an index or a bool mask picks, cut to the longest of them."""
        rows: dict[str, Tensor] = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        longest_row = int(rows["attention"].sum(1).max())
        longest_response = int(rows["mask"].sum(1).max())
        for name, tensor in rows.items():
            if tensor.dim() == 2:
                length = longest_row if name in ("ids", "attention") else longest_response
                rows[name] = tensor[:, :length]
        return Batch(**rows)

    def concatenate(self, other: Batch) -> Batch:
        """Return the rows of both; the other's groups get new numbers, so that none are joined."""
        shift = int(self.group.max()) + 1 - int(other.group.min())
        renumbered = replace(other, group=other.group + shift)
        names = [f.name for f in fields(self)]
        return Batch(**{n: _stack(getattr(self, n), getattr(renumbered, n)) for n in names})

    def shares_prompts(self) -> bool:
        """Tell whether it is cheaper to compute the prompt of each draw once, not in each row."""
        responses = self.mask.sum(1)  # (B,)
        prompts = self.attention.sum(1) - responses  # (B,)
        once = _largest_of_group(prompts, self.group).sum() + responses.sum()
        return bool(once <= LARGEST_SHARE * self.attention.sum())

    def micro_batches(self, max_tokens: int) -> Iterator[tuple[Tensor, Batch]]:
        """Yield row numbers and rows, long rows first, at most `max_tokens` padded tokens at once.

        The rows of a draw stay together if they share their prompt. The cut depends on lengths
        alone: two passes over one batch are cut alike.
        """
        lengths = self.attention.sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        if self.shares_prompts():
            draws = self.group.unique(return_inverse=True)[1]  # (B,)
            order = order[torch.argsort(draws[order], stable=True)]
            longest = _largest_of_group(lengths, self.group)[draws[order]]
            order = order[torch.argsort(longest, descending=True, stable=True)]
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
        """Return a bool per row: false if all outcomes of its group are alike.

        NaN never equals NaN, so unlabeled rows always count as informative.
        """
        alike = (self.outcome == self.outcome[:, None]) | (self.group != self.group[:, None])
        return ~alike.all(1)


def forward_no_grad(forward: Callable[[Batch], Tensor], batch: Batch, max_tokens: int) -> Tensor:
    """Return `forward` of a whole batch (B, T), computed in micro-batches without gradient."""
    output = torch.zeros_like(batch.mask)
    with torch.no_grad():
        for rows, micro in batch.micro_batches(max_tokens):
            output[rows, : micro.mask.shape[1]] = forward(micro)
    return output


def _pad(rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], value: float) -> Tensor:
    tensors = [torch.tensor(list(row)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _largest_of_group(x: Tensor, group: Tensor) -> Tensor:
    """Return the largest x (B,) of each group, in the order of the groups' numbers."""
    numbers, draws = group.unique(return_inverse=True)
    return torch.zeros(len(numbers), dtype=x.dtype).scatter_reduce(0, draws, x, "amax")


def _question_number(content_hash: str) -> int:
    digest = hashlib.blake2b(content_hash.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _until(lengths: Tensor) -> Tensor:
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _stack(first: Tensor, second: Tensor) -> Tensor:
    if first.dim() == 1:
        return torch.cat([first, second])
    return pad_sequence([*first, *second], batch_first=True)
