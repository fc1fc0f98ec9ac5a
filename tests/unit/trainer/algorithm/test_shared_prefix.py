"""A prompt that is computed once gives the same figures and gradients as padded rows."""

import random

import pytest
import tiny
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo3Config,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from tempo_trainer.algorithm import shared_prefix
from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.networks import CRITIC, POLICY, Networks
from tempo_trainer.algorithm.shared_prefix import Layout

TOLERANCE = 1e-5  # of the norm, in float32
WINDOW = 6  # shorter than the prompts, so that responses do not see all of theirs
SIZE = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_attention_heads": 4}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**tiny.SHAPE),
    "qwen3": Qwen3Config(**tiny.SHAPE),
    "qwen3, one layer with a window": Qwen3Config(
        **tiny.SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "mistral, window": MistralConfig(**tiny.SHAPE, sliding_window=WINDOW),
    "gemma3, window": Gemma3TextConfig(
        **tiny.SHAPE, sliding_window=WINDOW, query_pre_attn_scalar=8
    ),
    "olmo3, window": Olmo3Config(**tiny.SHAPE, sliding_window=WINDOW),
    "opt, learned positions": OPTConfig(
        **SIZE, ffn_dim=48, num_hidden_layers=2, word_embed_proj_dim=32, max_position_embeddings=64
    ),
}
OTHERS: dict[str, PretrainedConfig] = {
    "falcon, an attention of its own": FalconConfig(**SIZE, num_hidden_layers=2),
    "qwen3-next, linear attention": Qwen3NextConfig(
        **tiny.SHAPE, num_experts=2, num_experts_per_tok=1
    ),
}


def networks(config: PretrainedConfig) -> Networks:
    """Return networks whose adapters and value head are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        nets = Networks(model, tiny.settings())
        for name, weight in nets._trained().items():
            if ".lora_B." in name or name.startswith("value_head"):
                torch.nn.init.normal_(weight, std=0.1)
    return nets


def rollouts(*, questions: int = 4, group: int = 8, seed: int = 0) -> list[Rollout]:
    """Return responses to questions in a random order, of lengths from 1 to 9."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(2, tiny.VOCABULARY) for _ in range(length)]

    rows = []
    for number in range(questions):
        prompt = ids(draw.randint(7, 12))
        for place in range(group):
            response = ids(draw.randint(1, 9))
            logprobs = [-1.0] * len(response)
            rows.append(
                Rollout(str(number), prompt, response, logprobs, number, "stop", True, place % 2)
            )
    draw.shuffle(rows)
    return rows


def outputs(nets: Networks, batch: Batch, *, shared: bool) -> dict[str, Tensor]:
    """Return log-probabilities, values, and the gradients of a random sum of them."""
    nets._shares_prompts = shared
    weights = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1))
    results = {"base": nets.policy.base_logprobs(batch)}
    forwards = {POLICY: nets.policy.logprobs, CRITIC: nets.critic.values}
    for adapter, forward in forwards.items():
        own = [p for name, p in nets._trained().items() if (POLICY in name) == (adapter == POLICY)]
        with nets.active(adapter):
            per_token = forward(batch)
            gradients = torch.autograd.grad((per_token * weights * batch.mask).sum(), own)
        results[adapter] = per_token.detach()
        results[f"gradient of {adapter}"] = torch.cat([g.flatten() for g in gradients])
    return results


def raise_if_unlike(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, expected in left.items():
        assert expected.norm() > 0.01, name
        assert (right[name] - expected).norm() <= TOLERANCE * expected.norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_and_gradients_are_those_of_padded_rows(family: str) -> None:
    nets = networks(FAMILIES[family])
    assert nets._shares_prompts
    batch = Batch.collate(rollouts(), tiny.PAD)
    raise_if_unlike(outputs(nets, batch, shared=False), outputs(nets, batch, shared=True))


def test_gradient_checkpointing_computes_the_same() -> None:
    model = tiny.model()
    nets = Networks(model, tiny.settings(gradient_checkpointing=True))
    for name, weight in nets._trained().items():
        if ".lora_B." in name or name.startswith("value_head"):
            torch.nn.init.normal_(weight, std=0.1)
    batch = Batch.collate(rollouts(), tiny.PAD)
    raise_if_unlike(outputs(nets, batch, shared=False), outputs(nets, batch, shared=True))


@pytest.mark.parametrize("family", OTHERS)
def test_models_with_other_layers_keep_padded_rows(family: str) -> None:
    model = AutoModelForCausalLM.from_config(OTHERS[family], attn_implementation="sdpa")
    assert not shared_prefix.enable(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("longest", "precision"), [(256, torch.float32), (0, torch.bfloat16)])
def test_gradients_in_bfloat16_attend_to_short_rows_in_float32(
    monkeypatch: pytest.MonkeyPatch, shared: bool, longest: int, precision: torch.dtype
) -> None:
    seen: set[torch.dtype] = set()
    stock = shared_prefix.sdpa_attention_forward

    def attend(module: object, query: Tensor, *parts: Tensor, **settings: object) -> object:
        seen.add(query.dtype)
        return stock(module, query, *parts, **settings)

    monkeypatch.setattr(shared_prefix, "SHORT", longest)
    nets = Networks(tiny.model().to(torch.bfloat16), tiny.settings())
    nets._shares_prompts = shared
    batch = Batch.collate(rollouts(), tiny.PAD)
    monkeypatch.setattr(shared_prefix, "sdpa_attention_forward", attend)
    with nets.policy.active():
        nets.policy.logprobs(batch).sum().backward()
    assert seen == {precision}
    seen.clear()
    nets.policy.base_logprobs(batch)
    assert seen == {torch.bfloat16}


def test_a_response_does_not_see_another_one() -> None:
    nets = networks(FAMILIES["llama"])
    rows = rollouts(questions=1)
    others = rollouts(questions=1, seed=1)
    changed = [rows[0], *(row_with(rows[1], other.response_ids) for other in others[1:])]
    values = [nets.critic.values(Batch.collate(part, tiny.PAD))[0] for part in (rows, changed)]
    length = len(rows[0].response_ids)
    assert torch.allclose(values[0][:length], values[1][:length], atol=1e-6)


def row_with(row: Rollout, response: object) -> Rollout:
    ids = list(response)  # type: ignore[call-overload]
    return Rollout(row.content_hash, row.prompt_ids, ids, [0.0] * len(ids), 0, "stop", True, 1.0)


def test_rows_of_one_draw_with_other_prompts_keep_their_own() -> None:
    nets = networks(FAMILIES["llama"])
    rows = [*rollouts(questions=2)]
    mixed = [row_with(row, row.response_ids) for row in rows]  # all in group 0
    batch = Batch.collate(mixed, tiny.PAD)
    assert batch.shares_prompts()
    raise_if_unlike(outputs(nets, batch, shared=False), outputs(nets, batch, shared=True))


def test_a_layout_has_each_prompt_once_and_no_padding() -> None:
    rows = rollouts()
    layout = Layout.of(Batch.collate(rows, tiny.PAD))
    prompts = {tuple(row.prompt_ids) for row in rows}
    tokens = sum(map(len, prompts)) + sum(len(row.response_ids) for row in rows)
    assert layout.ids.shape == (1, tokens)
    assert len(layout.before) == sum(len(row.response_ids) for row in rows)


def test_prompts_are_shared_only_where_it_saves_a_fifth_of_the_tokens() -> None:
    rows = rollouts(questions=1, group=8)
    short = Batch.collate(rows, tiny.PAD)
    long = Batch.collate([row_with(row, [3] * 400) for row in rows], tiny.PAD)
    single = Batch.collate(rows[:1], tiny.PAD)
    assert (short.shares_prompts(), long.shares_prompts(), single.shares_prompts()) == (
        True,
        False,
        False,
    )


def test_rows_of_a_draw_stay_together_in_micro_batches() -> None:
    batch = Batch.collate(rollouts(questions=6), tiny.PAD)
    groups = [micro.group.tolist() for _, micro in batch.micro_batches(200)]
    assert len(groups) > 2
    in_order = [group for part in groups for group in part]
    assert [g for i, g in enumerate(in_order) if i == 0 or in_order[i - 1] != g] == sorted(
        set(in_order), key=in_order.index
    )


def test_a_model_without_torch_attention_is_left_as_it_is() -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"], attn_implementation="eager")
    assert not shared_prefix.enable(model)
    assert model.config._attn_implementation == "eager"
