"""The maths of TEMPO (arXiv:2604.19295), one function per formula: tensors in, tensors out.

    x, y     question and response            I    outcome      (B,)    -1 or +1
    π_θ      policy, `logprobs`   (B, T)      R    reward       (B,)
    V_φ      critic, `values`     (B, T)      A    advantages   (B, T)
    m        `mask`               (B, T)      L    response tokens of a row, Σ_t m

B is the number of rows (responses), T the number of tokens of the longest response. V_φ(x, y<t) is
the value before token t. The paper writes V(x, y_1:t) in eq. 11, but its code reads the value
before the token, as an actor-critic does: a baseline must not see the token that it rates.

The paper's outcome is 0 or 1; its code for mathematics and this module use -1 and +1. A value then
means the probability (V + 1) / 2, and a new critic, which says 0, says one half.

Losses are sums over rows divided by `denominator`, the number of rows of the whole optimiser step.
So a step may be cut into micro-batches without a change of its gradient.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken = Float[Tensor, "B T"]
PerRow = Float[Tensor, "B"]
Scalar = Float[Tensor, ""]

# Rows, and the positions of the values ------------------------------------------------------------


def positions(
    prompt_lengths: Int[Tensor, "B"], response_lengths: Int[Tensor, "B"]
) -> Int[Tensor, "B T"]:
    """p[i, t] = P_i − 1 + t, the place of the state before token t; padding repeats the last."""
    # A state predicts the next token: the one at P_i − 1, the prompt's last, comes before y_0.
    steps = torch.arange(int(response_lengths.max()))  # (T,)
    return prompt_lengths[:, None] - 1 + torch.minimum(steps, response_lengths[:, None] - 1)


def row_means(x: PerToken, mask: PerToken) -> PerRow:
    """(1/L) Σ_t x: the mean over a row's tokens, so that a long response counts as a short one."""
    return (x * mask).sum(1) / mask.sum(1)


def last_values(values: PerToken, mask: PerToken) -> PerRow:
    """V_φ(x, y<L): the value before the last token, the critic's verdict on the response."""
    # The last token is the end-of-sequence token, if there is one: the value has read all the rest.
    last = mask.sum(1).long() - 1  # (B,)
    return values.gather(1, last[:, None])[:, 0]


# Advantages (eq. 7 and 11) ------------------------------------------------------------------------


def terminal_reward(
    outcome: PerRow, labeled: Bool[Tensor, "B"], values: PerToken, mask: PerToken, *, sign: int = 1
) -> PerRow:
    """R = I if labeled, else sign · V_φ(x, y<L), without gradient; sign = -1 is a control."""
    # Eq. 7: where P(correct | x, y) is unknown, the critic's last value stands for it. It is a
    # constant of the M-step: no gradient of the policy's loss reaches the critic.
    return torch.where(labeled, outcome, sign * last_values(values, mask)).detach()


def raw_advantages(reward: PerRow, values: PerToken, mask: PerToken) -> PerToken:
    """A_t = R − V_φ(x, y<t) (eq. 11), 0 on padding."""
    # The last token of an unlabeled row gets exactly 0. If all values of a row are shifted equally,
    # nothing changes: only the change of V from token to token teaches.
    return ((reward[:, None] - values) * mask).detach()


def moments(x: PerToken, mask: PerToken) -> tuple[Scalar, Scalar]:
    """μ = Σ x m / Σ m and the unbiased σ² = Σ (x − μ)² m / (Σ m − 1)."""
    count = mask.sum()
    # The clamps only avoid 0 / 0: an empty mask has moments 0 and 0.
    mean = (x * mask).sum() / count.clamp(min=1)
    return mean, ((x - mean).square() * mask).sum() / (count - 1).clamp(min=1)


def whiten(x: PerToken, mask: PerToken, *, floor: float = 0.0) -> PerToken:
    """Â = (x − μ) / max(√(σ² + 1e-8), floor) over the tokens of the mask, 0 elsewhere.

    The estimator `em_token` whitens A_t over all tokens of the policy's batch.
    """
    mean, variance = moments(x, mask)
    # Without the floor a flat critic's noise would be blown up to unit size, and would be learned.
    return (x - mean) * mask / (variance + 1e-8).sqrt().clamp(min=floor)


def group_advantages(score: PerRow, group: Int[Tensor, "B"]) -> PerRow:
    """(s − mean_g) / (σ_g + 1e-6) within the responses to one question, σ unbiased.

    The estimator `em` gives all tokens of a response this advantage, as GRPO does.
    """
    same = (group[:, None] == group).double()  # (B, B); in float32 equal scores would not cancel
    count = same.sum(1)
    apart = score.double() - (same @ score.double() / count)[:, None]  # (B, B): s_j − mean_g(i)
    variance = (apart.square() * same).sum(1) / (count - 1).clamp(min=1)
    return (apart.diagonal() / (variance.sqrt() + 1e-6)).to(score.dtype)


# E-step (eq. 6) -----------------------------------------------------------------------------------


def critic_loss(
    values: PerToken,
    outcome: PerRow,
    mask: PerToken,
    labeled: Bool[Tensor, "B"],
    *,
    denominator: int,
) -> Scalar:
    """Σ_i∈D_L (1/L) Σ_t (V_φ(x, y<t) − I)² / denominator, the number of labeled rows (eq. 6)."""
    # An unlabeled outcome is not a number, and NaN · 0 is NaN: so it is replaced, not only masked.
    target = torch.where(labeled, outcome, 0.0)[:, None]  # (B, 1)
    error = (values - target).square()  # (B, T)
    rows = row_means(error, mask) * labeled  # (B,)
    return rows.sum() / max(denominator, 1)


# M-step (eq. 12) ----------------------------------------------------------------------------------


def importance_weights(logprobs: PerToken, sampled: PerToken, *, cap: float) -> PerToken:
    """w_t = min(π_θ(y_t) / π_sampler(y_t), cap), without gradient; with cap 0 all w are 1.

    vLLM sampled the response and computes slightly other probabilities; the weights correct that.
    """
    if not cap:
        return torch.ones_like(logprobs)
    # Token by token: the product over a long response would exceed any cap by noise alone.
    return (logprobs.detach() - sampled).exp().clamp(max=cap)


def sequence_ratio(logprobs: PerToken, old: PerToken, mask: PerToken) -> PerToken:
    """s = exp((1/L) Σ_t (log π_θ − log π_old)), one for all tokens (GSPO, arXiv:2507.18071)."""
    ratio = row_means(logprobs - old, mask).exp()[:, None]  # (B, 1)
    # The factor exp(log π − sg(log π)) is 1: the value is the sequence's ratio, and the gradient
    # flows through each token alone.
    return ratio.detach() * (logprobs - logprobs.detach()).exp()


def policy_loss(
    logprobs: PerToken,
    old: PerToken,
    a: PerToken,
    mask: PerToken,
    weights: PerToken,
    *,
    low: float,
    high: float,
    denominator: int,
) -> Scalar:
    """−Σ_i (1/L) Σ_t w_t min(s A_t, clip(s, 1 − low, 1 + high) A_t) / denominator (eq. 12).

    On policy (s = 1) its gradient is that of −A_t log π_θ(y_t), weighted: REINFORCE.
    """
    s = sequence_ratio(logprobs, old, mask)  # (B, T)
    # Outside the clip range a token loses its gradient only if it has already moved in the
    # direction of its advantage.
    gain = torch.minimum(s * a, s.clamp(1 - low, 1 + high) * a) * weights  # (B, T)
    return -row_means(gain, mask).sum() / denominator


def k3(logprobs: PerToken, other: PerToken) -> PerToken:
    """e^−d − 1 + d with d = log π − log π', on tokens that π sampled."""
    # Each term is at least 0 and least at d = 0, so no batch gives a negative KL by chance.
    d = logprobs - other
    return torch.expm1(-d) + d


def approx_kl(logprobs: PerToken, other: PerToken, mask: PerToken) -> Scalar:
    """KL(π ‖ π') ≈ mean_i (1/L) Σ_t k3: a figure for reports, never a loss."""
    return row_means(k3(logprobs, other), mask).mean()


def base_kl_loss(logprobs: PerToken, base: PerToken, mask: PerToken, *, denominator: int) -> Scalar:
    """Σ_i (1/L) Σ_t k3 / denominator; its gradient is that of KL(π_base ‖ π_θ)."""
    # E_π[∇k3] = E_π[(1 − π_base / π) ∇log π] = −Σ π_base ∇log π: the value of k3 estimates
    # KL(π ‖ π_base), but its gradient by π is that of the KL in the other direction.
    return row_means(k3(logprobs, base), mask).sum() / denominator
