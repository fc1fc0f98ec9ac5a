"""Rollouts become padded tensors; no row is lost and no groups are joined."""

import math
from dataclasses import replace

import pytest
import torch
from vectors import GOLDEN

from tempo_trainer.algorithm.batch import Batch, EmptyBatchError, Rollout, forward_no_grad

PAD = 0


def rollout(
    prompt: list[int], response: list[int], *, group: int = 0, outcome: float = math.nan
) -> Rollout:
    return Rollout(
        content_hash=f"q{group}",
        prompt_ids=prompt,
        response_ids=response,
        logprobs=[-float(token) for token in response],
        group=group,
        finish_reason="stop",
        labeled=not math.isnan(outcome),
        outcome=outcome,
    )


ROWS = [
    rollout([5, 6, 7], [8, 9], group=0, outcome=1.0),
    rollout([5, 6, 7], [8], group=0, outcome=-1.0),
    rollout([4], [3, 2, 1, 2], group=1, outcome=1.0),
    rollout([4], [1, 2], group=1, outcome=1.0),
    rollout([9, 9], [7, 7, 7], group=2),
]


def test_rows_are_padded_on_the_right() -> None:
    batch = Batch.collate(ROWS, PAD)
    assert len(batch) == 5
    assert batch.ids[0].tolist() == [5, 6, 7, 8, 9]
    assert batch.ids[1].tolist() == [5, 6, 7, 8, PAD]
    assert batch.attention.sum(1).tolist() == [5, 4, 5, 3, 5]
    assert batch.mask.sum(1).tolist() == [2, 1, 4, 2, 3]
    assert batch.tokens[2].tolist() == [3, 2, 1, 2]
    assert batch.sampled_logprobs[1].tolist() == [-8, 0, 0, 0]
    assert batch.labeled.tolist() == [True, True, True, True, False]


def test_a_position_holds_the_token_before_the_one_it_predicts() -> None:
    batch = Batch.collate(ROWS, PAD)
    following = batch.ids.gather(1, (batch.positions + 1).clamp(max=batch.ids.shape[1] - 1))
    real = batch.mask.bool()
    assert torch.equal(following[real], batch.tokens[real])


def test_empty_responses_are_dropped_and_nothing_else() -> None:
    batch = Batch.collate([ROWS[0], rollout([5], []), ROWS[1]], PAD)
    assert batch.group.tolist() == [0, 0]
    with pytest.raises(EmptyBatchError, match="all 1 rollouts"):
        Batch.collate([rollout([5], [])], PAD)


def test_a_selection_is_cut_to_its_longest_row() -> None:
    part = Batch.collate(ROWS, PAD).select(torch.tensor([3, 1]))
    assert part.ids.tolist() == [[4, 1, 2, PAD], [5, 6, 7, 8]]
    assert part.mask.tolist() == [[1, 1], [1, 0]]
    assert part.positions.shape == part.tokens.shape == part.sampled_logprobs.shape == (2, 2)


def test_concatenation_keeps_groups_apart() -> None:
    first = Batch.collate(ROWS[:2], PAD)
    both = first.concatenate(Batch.collate(ROWS[2:], PAD))
    assert both.group.tolist() == [0, 0, 1, 1, 2]
    assert Batch.collate(ROWS[2:], PAD).concatenate(first).group.tolist() == [1, 1, 2, 3, 3]
    assert torch.equal(both.ids, Batch.collate(ROWS, PAD).ids)
    assert torch.equal(both.mask, Batch.collate(ROWS, PAD).mask)


@pytest.mark.parametrize("budget", [1, 7, 10, 1000])
def test_micro_batches_hold_each_row_once_within_the_budget(budget: int) -> None:
    batch = Batch.collate(ROWS, PAD)
    plan = list(batch.micro_batches(budget))
    assert sorted(int(i) for rows, _ in plan for i in rows) == [0, 1, 2, 3, 4]
    assert all(part.ids.numel() <= budget or len(part) == 1 for _, part in plan)
    lengths = [int(n) for _, part in plan for n in part.attention.sum(1)]
    assert lengths == sorted(lengths, reverse=True)


def test_a_forward_pass_in_micro_batches_keeps_the_order_of_the_rows() -> None:
    batch = Batch.collate(ROWS, PAD)
    output = forward_no_grad(lambda part: part.sampled_logprobs * 2, batch, 7)
    assert torch.equal(output, batch.sampled_logprobs * 2)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [5]), (2, [4, 1]), (3, [2, 2, 1]), (9, [2, 2, 1])]
)
def test_minibatches_keep_groups_whole(count: int, sizes: list[int]) -> None:
    batch = Batch.collate(ROWS, PAD)
    parts = batch.minibatches(count)
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == [0, 1, 2, 3, 4]


def test_labeled_groups_whose_outcomes_are_all_alike_are_not_informative() -> None:
    assert Batch.collate(ROWS, PAD).informative().tolist() == [True, True, False, False, True]


def test_the_groups_that_the_reference_code_keeps_are_informative() -> None:
    case = GOLDEN["G7_filter"]
    groups = [group for batch in case["batches"] for group in batch]
    rows = [
        rollout([5], [6], group=number, outcome=outcome)
        for number, (_, kind, outcomes) in enumerate(groups)
        for outcome in (outcomes if kind == "L" else [math.nan] * 4)
    ]
    informative = Batch.collate(rows, PAD).informative().reshape(len(groups), 4)
    assert torch.equal(informative.any(1), informative.all(1))
    names = [name for (name, *_), keep in zip(groups, informative[:, 0], strict=True) if keep]
    # The reference code draws groups until it has four, and drops the surplus; we keep them all.
    assert names == case["update"] + case["surplus"]


def test_a_response_cut_at_the_length_limit_is_marked() -> None:
    cut = replace(ROWS[1], finish_reason="length")
    assert Batch.collate([ROWS[0], cut, ROWS[2]], PAD).truncated.tolist() == [False, True, False]
