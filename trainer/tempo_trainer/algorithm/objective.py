"""The maths of TEMPO (arXiv:2604.19295), one function per formula: tensors in, tensors out.

    x, y     question and response            I    outcome      (B,)    -1 or +1
    π_θ      policy, `logprobs`   (B, T)      R    reward       (B,)
    V_φ      critic, `values`     (B, T)      A    advantages   (B, T)
    m        `mask`               (B, T)      L    response tokens of a row, Σ_t m

V_φ(x, y<t) is the value before token t. Losses are sums over rows divided by `denominator`, the
number of rows of the whole optimiser step, so that cutting it into micro-batches changes nothing.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken = Float[Tensor, "B T"]
PerRow = Float[Tensor, "B"]
Scalar = Float[Tensor, ""]


def positions(
    prompt_lengths: Int[Tensor, "B"], response_lengths: Int[Tensor, "B"]
) -> Int[Tensor, "B T"]:
    """p[i, t] = P_i − 1 + t, the place of the state before token t; padding repeats the last."""
    steps = torch.arange(int(response_lengths.max()))  # (T,)
    return prompt_lengths[:, None] - 1 + torch.minimum(steps, response_lengths[:, None] - 1)


def last_values(values: PerToken, mask: PerToken) -> PerRow:
    """V_φ(x, y<L): the value before the last token, the critic's verdict on the response."""
    last = mask.sum(1).long() - 1  # (B,)
    return values.gather(1, last[:, None])[:, 0]


def terminal_reward(
    outcome: PerRow, labeled: Bool[Tensor, "B"], values: PerToken, mask: PerToken, *, sign: int = 1
) -> PerRow:
    """R = I if labeled, else sign · V_φ(x, y<L), without gradient; sign = -1 is a control."""
    return torch.where(labeled, outcome, sign * last_values(values, mask)).detach()


def raw_advantages(reward: PerRow, values: PerToken, mask: PerToken) -> PerToken:
    """A_t = R − V_φ(x, y<t) (eq. 11), 0 on padding."""
    return ((reward[:, None] - values) * mask).detach()


def moments(x: PerToken, mask: PerToken) -> tuple[Scalar, Scalar]:
    """μ = Σ x m / Σ m and the unbiased σ² = Σ (x − μ)² m / (Σ m − 1)."""
    count = mask.sum()
    mean = (x * mask).sum() / count.clamp(min=1)
    return mean, ((x - mean).square() * mask).sum() / (count - 1).clamp(min=1)


def whiten(
    x: PerToken, mask: PerToken, *, floor: float = 0.0, shift: Tensor | float = 1.0
) -> PerToken:
    """(x − μ) / max(√(σ² + 1e-8), floor) over the tokens of the mask, 0 elsewhere.

    Rows whose `shift` (B, 1) is 0 keep their zero: they are divided only.
    """
    mean, variance = moments(x, mask)
    return (x - shift * mean) * mask / (variance + 1e-8).sqrt().clamp(min=floor)


def advantages(
    raw: PerToken,
    mask: PerToken,
    labeled: Bool[Tensor, "B"],
    *,
    per_domain: bool = False,
    shift_unlabeled: bool = True,
    floor: float = 0.0,
    most: float = math.inf,
) -> PerToken:
    """Â = whiten(A) over all sampled tokens, or over labeled and unlabeled tokens apart."""
    shift = 1.0 if shift_unlabeled else labeled[:, None].float()
    known = mask * labeled[:, None]  # (B, T)
    parts = [known, mask - known] if per_domain else [mask]
    whitened = [whiten(raw, part, floor=floor, shift=shift) for part in parts]
    return torch.stack(whitened).sum(0).clamp(-most, most)


def gae(reward: PerRow, values: PerToken, mask: PerToken, *, decay: float) -> PerToken:
    """A_t = Σ_k λ^k δ_t+k, δ_t = V_φ(x, y≤t) − V_φ(x, y<t), with R as the value after the end.

    λ = 1 gives R − V_φ(x, y<t). The release rewards unlabeled rows with 0, which punishes states
    of high value; here R = V_φ(x, y<L) ends them.
    """
    has_next = torch.nn.functional.pad(mask[:, 1:], (0, 1)) > 0  # (B, T)
    following = torch.where(has_next, values.roll(-1, 1), reward[:, None])
    running, found = torch.zeros_like(reward), []
    for delta in ((following - values) * mask).flip(1).unbind(1):  # (B,), last token first
        running = delta + decay * running
        found.append(running)
    return torch.stack(found[::-1], 1).detach()


def group_advantages(score: PerRow, group: Int[Tensor, "B"]) -> PerRow:
    """(s − mean_g) / (σ_g + 1e-6) within the responses to one question, σ unbiased."""
    same = (group[:, None] == group).double()  # (B, B); in float32 equal scores would not cancel
    count = same.sum(1)
    apart = score.double() - (same @ score.double() / count)[:, None]  # (B, B): s_j − mean_g(i)
    variance = (apart.square() * same).sum(1) / (count - 1).clamp(min=1)
    return (apart.diagonal() / (variance.sqrt() + 1e-6)).to(score.dtype)


def critic_loss(
    values: PerToken,
    outcome: PerRow,
    mask: PerToken,
    labeled: Bool[Tensor, "B"],
    *,
    denominator: int,
    old: PerToken | None = None,
    clip: float = 0.0,
) -> Scalar:
    """Σ_i∈D_L (1/L) Σ_t (V_φ(x, y<t) − I)² / denominator, the number of labeled rows (eq. 6).

    With `old`, also against V shifted as a row until its mean is within `clip` of the old mean.
    """
    target = torch.where(labeled, outcome, 0.0)[:, None]  # an unlabeled outcome is not a number
    error = (values - target).square()  # (B, T)
    if old is not None:
        moved = ((values - old) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)  # (B, 1)
        near = values + (moved.clamp(-clip, clip) - moved)
        error = torch.maximum(error, (near - target).square())
    rows = (error * mask).sum(1) / mask.sum(1) * labeled  # (B,)
    return rows.sum() / max(denominator, 1)


def importance_weights(logprobs: PerToken, sampled: PerToken, *, cap: float) -> PerToken:
    """w_t = min(π_θ(y_t) / π_sampler(y_t), cap), without gradient: what vLLM computed otherwise.

    Token by token: a product over a long response exceeds any cap by noise alone. Cap 0: w = 1.
    """
    if not cap:
        return torch.ones_like(logprobs)
    return (logprobs.detach() - sampled).exp().clamp(max=cap)


def sequence_ratio(logprobs: PerToken, old: PerToken, mask: PerToken) -> PerRow:
    """s = exp((1/L) Σ_t (log π_θ − log π_old)), without gradient (GSPO, arXiv:2507.18071)."""
    return (((logprobs - old) * mask).sum(1) / mask.sum(1)).exp().detach()


def policy_ratio(
    logprobs: PerToken, old: PerToken, mask: PerToken, *, per_token: bool = False
) -> PerToken:
    """s for every token (GSPO), or its own π_θ(y_t) / π_old(y_t) (PPO)."""
    if per_token:
        return (logprobs - old).clamp(max=10).exp()
    # The value is the sequence's ratio, the gradient flows through each token alone.
    return sequence_ratio(logprobs, old, mask)[:, None] * (logprobs - logprobs.detach()).exp()


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
    per_token: bool = False,
) -> Scalar:
    """−Σ_i (1/L) Σ_t w_t min(s A_t, clip(s, 1 − low, 1 + high) A_t) / denominator (eq. 12)."""
    s = policy_ratio(logprobs, old, mask, per_token=per_token)
    gain = torch.minimum(s * a, s.clamp(1 - low, 1 + high) * a) * weights  # (B, T)
    return -((gain * mask).sum(1) / mask.sum(1)).sum() / denominator


def approx_kl(logprobs: PerToken, other: PerToken, mask: PerToken) -> Scalar:
    """KL(π ‖ π') ≈ mean_t (e^−d − 1 + d), d = log π − log π', on tokens that π sampled (k3)."""
    d = logprobs - other
    return ((torch.expm1(-d) + d) * mask).sum() / mask.sum()
