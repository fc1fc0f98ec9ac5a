"""Gradient checkpointing saves memory and changes no value, also in a model with dropout."""

from typing import Any

import pytest
import tiny
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from tempo_trainer.algorithm.networks import Networks

SMALL = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def with_dropout(family: str) -> PreTrainedModel:
    """Return a model that drops much wherever its kind can drop something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**tiny.SHAPE, attention_dropout=0.5))
        drops = {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}
        shape = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "word_embed_proj_dim": 32}
        return OPTForCausalLM(OPTConfig(**SMALL, **shape, **drops))


def gradients(nets: Networks) -> list[Any]:
    """Return the policy's gradients of the log-probabilities of a batch."""
    with nets.policy.active():
        nets.policy.logprobs(tiny.random_batch()).sum().backward()
    return [p.grad for p in nets.policy.optimiser.parameters()]


def test_recomputing_layers_changes_no_gradient() -> None:
    plain, recomputed = (
        gradients(tiny.networks(gradient_checkpointing=checkpointing))
        for checkpointing in (False, True)
    )
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_are_recomputed_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for checkpointing in (False, True):
        nets = tiny.networks(gradient_checkpointing=checkpointing)
        layer = nets._backbone.layers[0].mlp
        count: list[int] = []
        layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        gradients(nets)
        calls.append(len(count))
    assert calls == [1, 2]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_checkpointing_never_turns_dropout_on(family: str) -> None:
    batch = tiny.random_batch()
    plain = Networks(with_dropout(family), tiny.settings())
    nets = Networks(with_dropout(family), tiny.settings(gradient_checkpointing=True))
    logprobs = nets.policy.logprobs(batch)
    torch.testing.assert_close(logprobs, plain.policy.logprobs(batch))
    for _ in range(3):
        assert torch.equal(nets.policy.logprobs(batch), logprobs)
    for one, other in zip(gradients(plain), gradients(nets), strict=True):
        torch.testing.assert_close(one, other)
