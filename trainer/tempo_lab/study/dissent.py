"""The dissenting half of TTPO (arXiv:2608.27448): answers against the vote are punished.

A wrong vote is often against other wrong answers, so "no" is more often right than "yes". The other
half of TTPO, which distils the answers that agree, is left out. So is the factor of 0.1 that weighs
both halves against each other.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tempo_trainer.algorithm.batch import Batch, forward_no_grad
from tempo_trainer.algorithm.networks import POLICY, Networks
from tempo_trainer.settings import TrainerSettings

CONSENSUS = 2  # votes that an answer needs


def dissent_advantages(answers: Sequence[Sequence[str]]) -> Tensor:
    """Return −√(p / (1 − p)) for each response with another answer than the vote, else 0 (B,).

    p is the share of a question's responses that agree with the vote. An empty answer dissents.
    """
    rows: list[float] = []
    for row in answers:
        votes = Counter(answer for answer in row if answer)
        winner, count = votes.most_common(1)[0] if votes else ("", 0)
        odds = count / max(1, len(row) - count) if count >= CONSENSUS else 0.0
        rows += [-(odds**0.5) if answer != winner else 0.0 for answer in row]
    return torch.tensor(rows)


def surprising(networks: Networks, batch: Batch, settings: TrainerSettings) -> Tensor:
    """Return 1 for the tokens of each row that are punished, else 0 (B, T).

    They are the upper half by (−log π)(1 − h), where h is the entropy of the policy, scaled to
    0..1 in each response: unlikely tokens at places where the policy is sure.
    """
    size = settings.tokens_per_microbatch
    entropy = forward_no_grad(lambda micro: _entropies(networks, micro), batch, size)
    is_padding = ~batch.mask.bool()
    low = entropy.masked_fill(is_padding, torch.inf).amin(1, keepdim=True)
    high = entropy.masked_fill(is_padding, -torch.inf).amax(1, keepdim=True)
    scaled = (entropy - low) / (high - low).clamp(min=1e-9)
    score = (-batch.sampled_logprobs * (1 - scaled)).masked_fill(is_padding, torch.nan)
    median = score.nanquantile(0.5, 1, keepdim=True)
    return (score >= median).float()  # never on padding, since NaN >= x is false


def _entropies(networks: Networks, batch: Batch) -> Tensor:
    """Return the entropy of the policy before each token (B, T), in nats, 0 on padding."""
    logits = networks.states(batch, POLICY) @ networks.lm_head.T
    log_p = logits.float().log_softmax(-1)  # (N, V)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.zeros_like(batch.mask).masked_scatter(batch.mask.bool(), entropy)
