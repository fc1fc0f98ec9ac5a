"""Log-probabilities in pieces of rows agree with the golden vectors."""

import pytest
import torch
from vectors import GOLDEN

from tempo_trainer.algorithm.heads import TokenLogprobs


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize(("name", "temperature"), [("T1", 1.0), ("T05", 0.5)])
def test_log_probabilities_and_their_gradient_do_not_depend_on_the_pieces(
    rows: int, name: str, temperature: float
) -> None:
    case = GOLDEN["G13_chunked_logp"]
    hidden = torch.tensor(case["h"], dtype=torch.float32, requires_grad=True)
    weight = torch.tensor(case["W"], dtype=torch.float32)
    tokens = torch.tensor(case["y"])
    logprobs = TokenLogprobs.apply(hidden, weight / temperature, tokens, rows)
    torch.testing.assert_close(logprobs, torch.tensor(case[name]["logp"]), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    torch.testing.assert_close(gradient, torch.tensor(case[name]["dh"]), atol=1e-5, rtol=1e-5)
