"""Hyper-parameters of the trainer, read from TEMPO_ variables; each default names its source.

"Paper" is arXiv:2604.19295. "Reference code" is the code that its authors published. "Countdown" is
the task of `make demo`: the figure was measured on it with a model of 0.44 M parameters, and large
models want smaller steps. "Ours" is a choice of this project.
"""

import logging
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tempo_storage.settings import StorageSettings

logger = logging.getLogger("vllm.tempo.settings")  # the server's process reads these settings, too
Estimator = Literal["em_token", "em"]
DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")


def _refuse_removed_estimator(value: Any) -> Any:
    if value == "em_gae":
        raise ValueError(
            "version 0.2 removed em_gae; set em_token, which is em_gae at a decay of 1"
        )
    return value


def _check_device(value: str) -> str:
    if not DEVICES.fullmatch(value):
        raise ValueError("set auto, cpu, cuda or cuda:N, such as cuda:1")
    return value


def _rename_order(value: Any) -> Any:
    """Take the value that version 0.1 had; version 0.3 will refuse it."""
    if value == "release":
        logger.warning("TEMPO_ORDER=release has a new name since version 0.2; set reference_code")
        return "reference_code"
    return value


class TrainerSettings(StorageSettings):
    """The settings that decide, together with the data, what a round learns."""

    # The data of one iteration
    group_size: int = Field(default=8, ge=2, le=64)
    """Responses per question (G). Reference code: 8."""
    labeled_per_step: int = Field(default=16, ge=1, le=4096)
    """Labeled questions per iteration; the E-step learns from them. Countdown: 16; the paper gives
    no number."""
    unlabeled_per_step: int = Field(default=32, ge=1, le=4096)
    """Unlabeled questions per iteration; the M-step learns from them. Countdown: 32; reference
    code: 128-256 of both kinds together."""
    held_out_per_step: int = Field(default=8, ge=1, le=4096)
    """Held-out questions per iteration. They measure the critic, which never trains on them. More
    are drawn, up to nine times as many, until 24 draws were answered both right and wrong. Ours."""
    max_response_tokens: int = Field(default=4096, ge=1, le=131072)
    """Longest response that is sampled, in tokens. Reference code: 16,384; ours is for one GPU that
    is shared with vLLM."""
    iterations_per_round: int = Field(default=10, ge=1, le=10000)
    """Iterations (one E-step and one M-step each) before the gate decides. Ours."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the draw of questions and of the adapters' first values."""

    # E-step
    critic_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Step size of the critic's adapter. Countdown: one epoch at 1e-3 keeps up with the policy
    better than two at 3e-4. Reference code: 1e-6 on full weights."""
    value_head_learning_rate: float = Field(default=1e-2, gt=0, le=1)
    """Step size of the value head, whose features have norm one. Countdown: 1e-2."""
    critic_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over the labeled batches per E-step. Countdown: 1; at the step size of 1e-3 two passes
    cost a third more time and raise the AUROC (from .86 to .93), but not avg@8 (.64 instead of
    .66). Reference code: 1."""
    replay_batches: int = Field(default=3, ge=0, le=100)
    """Earlier labeled batches that each E-step trains on again. Countdown: 3; reference code: 0."""
    warm_up_steps: int = Field(default=20, ge=0, le=10000)
    """E-steps before the first M-step of all. Countdown: 20 give an AUROC of .98. The paper starts
    from a critic that PPO trained."""
    warm_up_questions: int = Field(default=32, ge=1, le=4096)
    """Labeled questions per E-step of the warm-up. Countdown: 32."""
    critic_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the critic's adapter, which has the policy's ratio of alpha to rank. Countdown:
    16."""

    # M-step
    estimator: Annotated[Estimator, BeforeValidator(_refuse_removed_estimator)] = "em_token"
    """How advantages are computed. `em_token` (paper): R − V for each token, then whitened. `em`
    (reference code, 4B model): R normalised within its question; one value for a whole response;
    for few or small groups."""
    policy_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Step size of the policy's adapter. Countdown: 1e-3 with the `kl_coefficient` of 0.3; without
    a KL the policy outruns the critic at 1e-3, and 3e-4 is safer. For billions of parameters start
    at 1e-4. After ten steps of 1e-5 the bfloat16 weights in vLLM have not changed; after ten of
    1e-4, three quarters of the change arrives (SmolLM2). Reference code: 1e-6 on full weights."""
    minibatches: int = Field(default=1, ge=1, le=64)
    """Optimiser steps per M-step. With 1 the ratio is 1 and nothing is clipped. Reference code:
    4."""
    clip_low: float = Field(default=3e-4, gt=0, lt=1)
    """Distance below 1 at which the ratio is clipped. It matters with two or more minibatches.
    Paper: 3e-4."""
    clip_high: float = Field(default=5e-4, gt=0, lt=10)
    """Distance above 1 at which the ratio is clipped. It matters with two or more minibatches.
    Paper: 5e-4."""
    importance_cap: float = Field(default=2.0, ge=0, le=100)
    """Largest importance weight of a token: its probability in the trainer divided by that in vLLM.
    0 gives every token the weight 1. verl's preset: 2.0; reference code: 0."""
    kl_coefficient: float = Field(default=0.3, ge=0, le=10)
    """Weight of the KL between base and policy in the policy's loss (k3, in nats: token mean per
    row, then mean over rows); it costs one more pass, and 0 switches it off. Its gradient is that
    of KL(base ‖ policy), which punishes most where the policy drops what the base says. Advantages
    have unit size, so a token may move by about A / 0.3 nats. Countdown: 0.3 keeps pass@8, honest
    work and the critic's AUROC (at the end .88 to .95 at 1e-3; without a KL .73 at 3e-4 and .61 at
    1e-3). Paper and reference code: 0."""
    advantage_std_floor: float = Field(default=0.05, ge=0, le=2)
    """Smallest divisor when advantages are whitened, so that the noise of a flat critic is not
    blown up to unit size. Outcomes are -1 and +1. Ours; reference code: 0."""
    minimum_advantage_std: float = Field(default=0.02, ge=0, le=2)
    """No M-step is made while the standard deviation of the unlabeled raw advantages is lower.
    Outcomes are -1 and +1. Ours."""
    labeled_in_policy: bool = True
    """Train the policy also on labeled responses, by their outcomes. Countdown, five seeds: avg@8
    of .757 against .714 on adapted questions, .530 against .504 on unseen ones. Paper: no;
    reference code: yes."""
    order: Annotated[Literal["paper", "reference_code"], BeforeValidator(_rename_order)] = "paper"
    """`paper`: recalibrate the critic, then let it give the advantages. `reference_code`: let it
    give the advantages, then recalibrate it."""
    reward_sign: Annotated[Literal[1, -1], BeforeValidator(int)] = 1
    """-1 flips the sign of the unlabeled reward. It is a control experiment: with
    `labeled_in_policy` off the policy must not gain."""

    # Both steps
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment. Countdown and reference code: 0.9."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of AdamW's second moment. Countdown: 0.95; reference code: 0.999."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient; a longer one is scaled down to it. Reference code: 1.0."""
    lora_alpha: int = Field(default=32, ge=1, le=4096)
    """Scale of the policy's adapter, which is multiplied by alpha / rank. Countdown: 32 at rank
    16."""
    serving_scale: float = Field(default=1.0, gt=0, le=1)
    """Share of the policy's adapter that a version serves with; training goes on with all of it. A
    smaller share gives up some of the gain and keeps more of the base's diversity on unseen
    questions. Countdown: at 0.6 their pass@8 is within two points of the base's, and 26 of 41
    points of gain remain."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Padded tokens in one forward pass. It bounds memory and changes no gradient. A row that is
    longer passes alone."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    """Device that the trainer computes on: auto, cpu, cuda or cuda:N. `auto` is the GPU if there is
    one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the base and of the forward pass; set the one that vLLM serves in. `auto` is
    bfloat16 on a GPU, and on a CPU with AMX for a model that is stored in bfloat16, else float32.
    Adapters are always optimised in float32."""

    # Gate
    gate_samples: int = Field(default=16, ge=2, le=256)
    """Responses of each version to each held-out question in a check and in the first look of a
    test; a second look draws four times as many. With fewer responses a gain is proven less
    often. The rate of false promotions stays the same. Countdown: 16; paper: 16."""
