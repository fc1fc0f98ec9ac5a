"""The rewards of other methods, which have no labels, as in their released code.

Answers are given by question; the rewards (B,) are flat, in the order of the answers.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def majority(answers: Sequence[Sequence[str]]) -> Float[Tensor, "B"]:
    """TTRL (arXiv:2504.16084): 1 for a question's most common answer, the first seen of equals.

    An empty answer neither votes nor is right.
    """
    right: list[bool] = []
    for row in answers:
        votes = Counter(answer for answer in row if answer)
        winner = votes.most_common(1)[0][0] if votes else None
        right += [answer == winner for answer in row]
    return torch.tensor(right, dtype=torch.float32)


def cluster_share(answers: Sequence[Sequence[str]]) -> Float[Tensor, "B"]:
    """EMPO (arXiv:2504.05812): the share of a question's responses that gave the same answer.

    An empty answer is a cluster of its own.
    """
    return torch.tensor([(row.count(a) if a else 1) / len(row) for row in answers for a in row])
