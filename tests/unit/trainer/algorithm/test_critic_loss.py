"""The critic's loss: golden vectors of the specification, and the theorems that it obeys."""

import math

import pytest
import torch
from vectors import GOLDEN, close, some_rows, tensor

from tempo_trainer.algorithm import objective


def test_the_critic_loss_is_twice_that_of_the_reference_code() -> None:
    case = GOLDEN["G6_value_loss"]  # the reference code has a factor of one half
    values = tensor(case["values"]).requires_grad_()
    labeled = torch.tensor(case["labeled"]).bool()
    outcome = tensor([1, -1, math.nan])
    mask = tensor(case["mask"])
    loss = objective.critic_loss(values, outcome, mask, labeled, denominator=2)
    close(loss.detach() / 2, case["loss"])
    close(torch.autograd.grad(loss / 2, values)[0], case["grad"])


def test_a_long_response_counts_as_much_as_a_short_one() -> None:
    values = torch.zeros(2, 4)
    outcome = tensor([1, 1])
    mask = tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    values[1] = 0.5
    loss = objective.critic_loss(values, outcome, mask, torch.ones(2).bool(), denominator=2)
    close(loss, (1.0 + 0.25) / 2)


def test_no_labeled_row_gives_no_loss_and_no_gradient() -> None:
    values, _, mask = some_rows()
    values.requires_grad_()
    none = torch.zeros(3).bool()
    loss = objective.critic_loss(values, torch.full((3,), math.nan), mask, none, denominator=0)
    assert loss == 0
    assert (torch.autograd.grad(loss, values)[0] == 0).all()


def test_critic_gradients_are_zero_outside_the_mask() -> None:
    values, _, mask = some_rows()
    values.requires_grad_()
    loss = objective.critic_loss(values, tensor([1, -1, 1]), mask, mask[:, 0] > 0, denominator=3)
    assert torch.equal(torch.autograd.grad(loss, values)[0] != 0, mask > 0)


@pytest.mark.parametrize("packing", [[[0, 3], [1, 2]], [[0], [1, 2, 3]], [[3], [0, 1, 2]]])
def test_the_critics_loss_does_not_depend_on_micro_batches(packing: list[list[int]]) -> None:
    case = GOLDEN["G16_label_normalisation"]
    labeled = torch.tensor([True, True, True, False])
    # One token a row with V = 1 − √loss and I = 1: the row's loss is the case's.
    losses = tensor([0.0 if x is None else x for x in case["row_losses"]])
    values = (1 - losses.sqrt())[:, None]
    parts = [
        objective.critic_loss(
            values[rows],
            torch.ones(len(rows)),
            torch.ones(len(rows), 1),
            labeled[rows],
            denominator=3,
        )
        for rows in packing
    ]
    close(sum(parts, torch.zeros(())), case["exact"])
