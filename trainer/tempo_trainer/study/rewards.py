"""What other methods take for a reward where there is none, as their released code does.

Rows are rollouts; rows of one question share its number in `group`.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def majority(answers: Sequence[str], group: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """TTRL (arXiv:2504.16084): 1 for the group's most common answer, the first seen of equals.

    An empty answer neither votes nor is right.
    """
    members = _members(group)
    winners = {g: _winner([answers[row] for row in rows]) for g, rows in members.items()}
    right = [a != "" and a == winners[g] for a, g in zip(answers, group.tolist(), strict=True)]
    return torch.tensor(right, dtype=torch.float32)


def cluster_share(answers: Sequence[str], group: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """EMPO (arXiv:2504.05812): the share of the group that gave the same answer.

    An empty answer is a cluster of its own.
    """
    share = torch.zeros(len(answers))
    for rows in _members(group).values():
        counts = Counter(answers[row] for row in rows)
        for row in rows:
            share[row] = (counts[answers[row]] if answers[row] else 1) / len(rows)
    return share


def _members(group: Tensor) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, number in enumerate(group.tolist()):
        members.setdefault(number, []).append(row)
    return members


def _winner(answers: Sequence[str]) -> str:
    votes = Counter(answer for answer in answers if answer)
    return votes.most_common(1)[0][0] if votes else ""
