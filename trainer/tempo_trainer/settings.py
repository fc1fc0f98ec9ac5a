"""Hyper-parameters of the trainer, read from TEMPO_ variables; every default says where it is from.

"Paper" is arXiv:2604.19295, "release" the authors' published code, "countdown" the demonstration's
task, on which the figure was measured (with 0.44 M parameters: large models want smaller steps).
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tempo_storage.settings import StorageSettings


class TrainerSettings(StorageSettings):
    """What decides the result of a round, apart from the data."""

    # The data of one iteration
    group_size: int = Field(default=8, ge=2, le=64)
    """Responses sampled per question (G). Release: 8."""
    labeled_per_step: int = Field(default=16, ge=1, le=4096)
    """Labeled questions per iteration, for the E-step. Countdown: 16; the paper names none."""
    unlabeled_per_step: int = Field(default=32, ge=1, le=4096)
    """Unlabeled questions per iteration, for the M-step. Countdown: 32; release: 128-256 in all."""
    held_out_per_step: int = Field(default=8, ge=1, le=4096)
    """Labeled questions of the fitness check, which the critic never trains on. Ours."""
    max_response_tokens: int = Field(default=4096, ge=1, le=131072)
    """Longest response that is sampled. Release: 16,384; ours is for one GPU shared with vLLM."""
    iterations_per_round: int = Field(default=10, ge=1, le=10000)
    """Iterations (E-step and M-step) before the gate decides. Ours."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the draw of questions and of the adapters' first values."""

    # E-step
    critic_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Step size of the critic's adapter. Countdown: 1e-3, with which one epoch keeps up with the
    policy better than two at 3e-4; release: 1e-6 on full weights."""
    value_head_learning_rate: float = Field(default=1e-2, gt=0, le=1)
    """Step size of the value head, on features of norm one. Countdown: 1e-2."""
    critic_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over the labeled batches per E-step. Countdown: 1; two cost a third more time and at
    the step size of 1e-3 raise the AUROC (.93 for .86), not avg@8 (.64 for .66); release: 1."""
    critic_keeps_zero_variance: bool = True
    """Train the critic also on labeled groups that are all right or all wrong, so that its prior is
    not pulled to one half. Release: no. The policy never trains on them."""
    value_clip: float = Field(default=0.0, ge=0, le=2)
    """How far a row's mean value may move within an E-step before its loss no longer pulls it; 0:
    as far as it likes. Paper: 0; release: 0.1."""
    replay_batches: int = Field(default=3, ge=0, le=100)
    """Earlier labeled batches that an E-step trains on again. Countdown: 3; release: 0."""
    warm_up_steps: int = Field(default=20, ge=0, le=10000)
    """E-steps before the first M-step. Countdown: 20 (AUROC .98); the paper starts from PPO's."""
    warm_up_questions: int = Field(default=32, ge=1, le=4096)
    """Labeled questions per step of the warm-up. Countdown: 32."""
    critic_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the critic's adapter, with the policy's ratio of alpha to rank. Countdown: 16."""
    fitness_auroc: float = Field(default=0.60, ge=0, le=1)
    """Below this AUROC of the last-token value on held-out rollouts no M-step is made. Countdown:
    it would have stopped the collapses without a KL at their peak."""
    fitness_cosine: float = Field(default=0.0, ge=-1, le=1)
    """Below this cosine of the critic's advantages with the true ones, on held-out rollouts, no
    M-step is made: it would point the wrong way. TEMPO's is above .15 in the study."""

    # M-step
    estimator: Literal["em_token", "em", "em_gae"] = "em_token"
    """Advantages. `em_token`: R − V before each token, whitened (paper); `em`: R normalised within
    its question, alike for all tokens, for few or small groups (release, 4B); `em_gae`: GAE with R
    as the reward of the last token (the release gives unlabeled rows none)."""
    gae_decay: float = Field(default=0.95, ge=0, le=1)
    """λ of `em_gae`; at 1 it is `em_token`. PPO's usual 0.95."""
    policy_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Step size of the policy's adapter. Countdown: 1e-3 with the `kl_coefficient` of 0.3 (without
    it 1e-3 outruns the critic, and 3e-4 is safer). For billions of parameters start at 1e-4: of ten
    steps of 1e-5 nothing arrives in the bfloat16 that vLLM serves, of 1e-4 three quarters
    (SmolLM2). Release: 1e-6 on full weights."""
    minibatches: int = Field(default=1, ge=1, le=64)
    """Optimiser steps per M-step; with 1 the ratio is 1 and nothing is clipped. Release: 4."""
    policy_ratio: Literal["sequence", "token"] = "sequence"
    """What is clipped: the ratio of the whole sequence (GSPO; paper), or each token's (PPO), which
    wants a `clip_low` of 0.2 and a `clip_high` of 0.28."""
    clip_low: float = Field(default=3e-4, gt=0, lt=1)
    """How far the ratio may fall below 1; matters from two minibatches on. Paper: 3e-4."""
    clip_high: float = Field(default=5e-4, gt=0, lt=10)
    """How far the ratio may rise above 1; matters from two minibatches on. Paper: 5e-4."""
    importance_cap: float = Field(default=2.0, ge=0, le=100)
    """Cap of a token's importance weight against vLLM's log-probability; 0: no weights. verl's
    preset: 2.0; release: 0."""
    kl_coefficient: float = Field(default=0.3, ge=0, le=10)
    """Weight of the KL to the base in the policy's loss, a token mean of k3, for one more pass;
    0: none. Advantages have unit size, so that a token may move by some A / 0.3 nats. Countdown:
    0.3 keeps pass@8, honest work and the critic's AUROC (at the end .88 to .95 at 1e-3; without,
    .73 at 3e-4 and .61 at 1e-3); paper and release: 0."""
    mask_truncated: bool = False
    """Keep responses that were cut at the length limit out of the policy's advantages (DAPO); the
    critic learns from them still. Release: no."""
    answer_mask: bool = False
    """End every response at its first complete \\boxed{}, for training and for verifiers alike. In
    the release, but never called."""
    whiten_scope: Literal["joint", "per_domain"] = "joint"
    """Whiten advantages over all rows, or labeled and unlabeled rows apart. Release: joint."""
    whiten_shift_unlabeled: bool = True
    """Subtract the mean from unlabeled advantages too; if not, those of last tokens stay 0.
    Release: yes."""
    advantage_clamp: float = Field(default=0.0, ge=0, le=100)
    """Largest whitened advantage, either sign; 0: no limit. Release: 0; 5 tames long tails."""
    advantage_std_floor: float = Field(default=0.05, ge=0, le=2)
    """Least divisor when advantages are whitened, so that a flat critic's noise is not blown up to
    unit size; the outcome's scale is -1/+1. Ours; release: 0."""
    minimum_advantage_std: float = Field(default=0.02, ge=0, le=2)
    """Below this standard deviation of the unlabeled raw advantages no M-step is made. Ours."""
    labeled_in_policy: bool = True
    """Train the policy on labeled rows as well. Countdown, five seeds: avg@8 of .757 against .714
    on the adapted questions, .530 against .504 on others. Paper: no; release: yes."""
    order: Literal["paper", "release"] = "paper"
    """`paper`: recalibrate, then read the advantages; `release`: read them before."""
    reward_sign: Annotated[Literal[1, -1], BeforeValidator(int)] = 1
    """-1 flips the sign of the unlabeled reward: a control experiment, which must not gain, when
    `labeled_in_policy` is off."""

    # Both steps
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """First decay of AdamW. Countdown and release: 0.9."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Second decay of AdamW. Countdown: 0.95; release: 0.999."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient. Release: 1.0."""
    lora_alpha: int = Field(default=32, ge=1, le=4096)
    """Scale of the policy's adapter, times its rank. Countdown: 32 at rank 16."""
    serving_scale: float = Field(default=1.0, gt=0, le=1)
    """Share of the policy's adapter that a version serves with; training goes on with all of it.
    Less gives some of the gain for more of the base's diversity on questions never asked.
    Countdown: at 0.6 their pass@8 is within two points of the base's, and 26 of 41 points
    remain."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Padded tokens in one forward pass; a memory bound that changes no gradient. One longer row
    still passes, alone."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    device: str = "auto"
    """Where the trainer computes: auto, cpu, cuda or cuda:N. `auto` is the GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the base and of the forward pass: `auto` is bfloat16 on a GPU and float32 on a
    CPU. Set what vLLM serves in. Adapters are optimised in float32 always."""

    # Gate
    gate_samples: int = Field(default=8, ge=2, le=256)
    """Responses per held-out question and adapter. Countdown: 8; paper: 16."""
    gate_delta: float = Field(default=0.03, ge=0, le=1)
    """Loss of avg@k against the serving adapter that the lower bound must exclude. Ours."""
    gate_pass_k_margin: float = Field(default=0.12, ge=0, le=1)
    """Loss of pass@k against the base that the lower bound must exclude. Ours."""
    gate_entropy_ratio: float = Field(default=0.4, ge=0, le=1)
    """Least answer entropy, as a share of the base's. Countdown: TTRL collapses to a quarter."""
