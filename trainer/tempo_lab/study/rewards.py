"""The rewards and advantages of other methods, as in their released code.

Answers are given by question; the rewards (B,) are flat, in the order of the answers.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
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


def pass_at_k_advantages(
    outcome: Float[Tensor, "B"], group: Int[Tensor, "B"], *, k: int
) -> Float[Tensor, "B"]:
    """Return the advantages of pass@k (arXiv:2508.10751); with k = 1 they are those of GRPO.

    Of G responses to a question n are wrong. R = 1 − C(n, k) / C(G, k) and s = √(R (1 − R)). A
    right response has (1 − R) / s, a wrong one (1 − R − C(n − 1, k − 1) / C(G − 1, k − 1)) / s.
    With R = 0 or 1 all have 0. An outcome above 0 is right; one that is not a number is not.
    """
    advantages = torch.zeros(len(group))
    for number in group.unique():
        rows = group == number
        is_right = outcome[rows] > 0
        size = len(is_right)
        wrong = size - int(is_right.sum())
        r = 1 - math.comb(wrong, k) / math.comb(size, k)
        if 0 < r < 1:
            alone = math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)
            of_row = torch.where(is_right, 1 - r, 1 - r - alone)
            advantages[rows] = of_row / math.sqrt(r * (1 - r))
    return advantages
