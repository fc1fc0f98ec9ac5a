"""Two adapters on one base: each computes alone, and neither takes the other's gradient."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM

from tempo_trainer.algorithm import objective
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.networks import (
    AdapterSwitchError,
    Networks,
    StateMismatchError,
    UnsupportedModelError,
)

FAMILIES = pytest.mark.parametrize("family", ["qwen3", "llama"])


def critic_step(nets: Networks, batch: Batch) -> None:
    """Make one step of the critic towards the outcomes."""
    with nets.critic.active():
        values = nets.critic.values(batch)
        loss = objective.critic_loss(
            values, batch.outcome, batch.mask, batch.labeled, denominator=len(batch)
        )
        loss.backward()
    nets.critic.optimiser.step(loss.item())


def policy_step(nets: Networks, batch: Batch) -> None:
    """Make one step of the policy towards all of the batch's tokens."""
    with nets.policy.active():
        loss = -nets.policy.logprobs(batch).mean()
        loss.backward()
    nets.policy.optimiser.step(loss.item())


def by_hand(model: Any, batch: Batch) -> Tensor:
    """Return log-probabilities row by row from the model's own logits."""
    logprobs = torch.zeros_like(batch.mask)
    for row in range(len(batch)):
        ids = batch.ids[row][batch.attention[row]]
        length = int(batch.mask[row].sum())
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        start = len(ids) - length
        for t in range(length):
            logprobs[row, t] = logits[start + t - 1, ids[start + t]]
    return logprobs


@FAMILIES
def test_fresh_adapters_reproduce_the_base_exactly(family: str) -> None:
    nets = tiny.networks(family)
    batch = tiny.random_batch()
    with torch.no_grad():
        logprobs = nets.policy.logprobs(batch)
    assert torch.equal(logprobs, nets.base_logprobs(batch))
    torch.testing.assert_close(logprobs, by_hand(tiny.model(family), batch), atol=1e-5, rtol=1e-5)


@FAMILIES
def test_the_first_step_of_a_new_critic_changes_only_the_head(family: str) -> None:
    nets = tiny.networks(family)
    batch = tiny.random_batch()
    before = nets.state_dict()["weights"]
    assert not nets.critic.values(batch).any()
    critic_step(nets, batch)
    after = nets.state_dict()["weights"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"value_head.weight", "value_head.bias"}
    critic_step(nets, batch)
    second = nets.state_dict()["weights"]
    changed = {name for name in after if not torch.equal(after[name], second[name])}
    assert any("critic" in name for name in changed)
    assert not any("policy" in name for name in changed)


@FAMILIES
def test_training_leaves_the_base_and_the_other_adapter_alone(family: str) -> None:
    nets = tiny.networks(family)
    batch = tiny.random_batch()
    base = nets.base_logprobs(batch)
    policy_step(nets, batch)
    policy_step(nets, batch)
    assert torch.equal(nets.base_logprobs(batch), base)
    assert not nets.critic.values(batch).any()
    changed = {n for n, w in nets.state_dict()["weights"].items() if ".policy." in n and w.any()}
    assert len(changed) == len([n for n in nets.state_dict()["weights"] if ".policy." in n])


def test_a_row_alone_gives_what_it_gives_in_a_batch() -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    critic_step(nets, batch)
    for forward in (nets.policy.logprobs, nets.critic.values):
        whole = forward(batch)
        assert not whole[batch.mask == 0].any()
        for row in range(len(batch)):
            alone = forward(batch.select(torch.tensor([row])))
            torch.testing.assert_close(alone[0], whole[row, : alone.shape[1]])


def test_a_backward_pass_under_the_other_adapter_is_refused() -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    with nets.policy.active():
        loss = nets.policy.logprobs(batch).sum()
        with nets.critic.active(), pytest.raises(AdapterSwitchError, match="adapter was critic"):
            loss.backward()


def test_a_backward_pass_outside_of_the_context_is_refused() -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    with pytest.raises(AdapterSwitchError, match="keep forward and backward inside one"):
        nets.policy.logprobs(batch).sum().backward()


def test_a_pass_of_the_critic_inside_the_policys_context_loses_no_gradient() -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    with nets.policy.active():
        loss = nets.policy.logprobs(batch).sum()
        with torch.no_grad():
            nets.critic.values(batch)
        loss.backward()
    gradients = [p.grad for p in nets.policy.optimiser.parameters()]
    assert all(g is not None for g in gradients)
    assert any(g.any() for g in gradients if g is not None)


@pytest.mark.parametrize("max_tokens", [1, 12])
def test_micro_batching_changes_no_gradient(max_tokens: int) -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    critic_step(nets, batch)

    def gradients(budget: int) -> list[Tensor]:
        with nets.critic.active():
            for _, part in batch.micro_batches(budget):
                values = nets.critic.values(part)
                objective.critic_loss(
                    values, part.outcome, part.mask, part.labeled, denominator=len(batch)
                ).backward()
        grads = [p.grad.clone() for p in nets.critic.optimiser.parameters() if p.grad is not None]
        nets.critic.optimiser._adam.zero_grad()
        return grads

    for whole, cut in zip(gradients(10_000), gradients(max_tokens), strict=True):
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-4)


@FAMILIES
def test_an_exported_adapter_gives_the_same_log_probabilities(family: str, tmp_path: Path) -> None:
    nets = tiny.networks(family)
    batch = tiny.random_batch()
    policy_step(nets, batch)
    nets.policy.export(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    again = PeftModel.from_pretrained(tiny.model(family), tmp_path)
    with torch.no_grad():
        expected = nets.policy.logprobs(batch)
    torch.testing.assert_close(by_hand(again, batch), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(expected, nets.base_logprobs(batch))


def test_an_adapter_is_scaled_in_pass_and_export_and_restored_afterwards(tmp_path: Path) -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    policy_step(nets, batch)
    before = nets.state_dict()["weights"]
    with torch.no_grad():
        whole = nets.policy.logprobs(batch)
        base = nets.base_logprobs(batch)
        with nets.policy.scaled(0.5):
            half = nets.policy.logprobs(batch)
            nets.policy.export(tmp_path)
        with nets.policy.scaled(0.0):
            torch.testing.assert_close(nets.policy.logprobs(batch), base)
    again = PeftModel.from_pretrained(tiny.model(), tmp_path)
    torch.testing.assert_close(by_hand(again, batch), half, atol=1e-5, rtol=1e-5)
    assert 0 < (half - base).abs().mean() < (whole - base).abs().mean()
    after = nets.state_dict()["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_exported_adapter_has_the_form_that_vllm_reads(tmp_path: Path) -> None:
    nets = tiny.networks()
    nets.policy.export(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 8, 16)
    assert config["bias"] == "none"
    assert not any(config[name] for name in ("use_dora", "use_rslora", "modules_to_save"))
    projections = ["down", "gate", "k", "o", "q", "up", "v"]
    assert config["target_modules"] == [f"{name}_proj" for name in projections]
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 2 * 7 * 2


def test_a_restored_state_continues_bit_for_bit_as_often_as_it_is_restored() -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    for step in (critic_step, policy_step, critic_step):
        step(nets, batch)
    saved = nets.state_dict()
    results = []
    for again in (nets, tiny.networks(seed=7), nets):
        again.load_state_dict(saved)
        critic_step(again, batch)
        policy_step(again, batch)
        results.append(again.state_dict()["weights"])
    for name, weight in results[0].items():
        assert not torch.equal(weight, saved["weights"][name]), name
        assert torch.equal(weight, results[1][name]), name
        assert torch.equal(weight, results[2][name]), name


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    nets = tiny.networks()
    batch = tiny.random_batch()
    fresh = nets.state_dict()
    critic_step(nets, batch)
    torch.save(nets.state_dict(), tmp_path / "state.pt")
    nets.load_state_dict(fresh)
    assert not nets.critic.values(batch).any()
    nets.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert nets.critic.values(batch).any()


def test_a_state_of_another_rank_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="restore with the base model and the ranks"):
        tiny.networks().load_state_dict(tiny.networks(critic_rank=8).state_dict())


def test_the_seed_decides_the_fresh_adapters_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    first, again, other = (tiny.networks(seed=s).state_dict()["weights"] for s in (1, 1, 2))
    number = torch.rand(())
    torch.manual_seed(5)
    assert number == torch.rand(())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_in_bfloat16_the_adapter_is_rounded_in_the_pass_and_in_the_export(tmp_path: Path) -> None:
    batch = tiny.random_batch()
    nets = Networks(tiny.model().to(torch.bfloat16), tiny.settings())
    policy_step(nets, batch)
    assert {p.dtype for p in nets.policy.optimiser.parameters()} == {torch.float32}
    nets.policy.export(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    with torch.no_grad():
        before = nets.policy.logprobs(batch)
        for p in nets.policy.optimiser.parameters():
            p.copy_(p.bfloat16())
        assert torch.equal(nets.policy.logprobs(batch), before)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    config = GraniteConfig(**tiny.SHAPE, logits_scaling=8.0)
    with pytest.raises(UnsupportedModelError, match="scale or cap their logits"):
        Networks(GraniteForCausalLM(config), tiny.settings())


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_cpu_with_amx_computes_in_bfloat16_what_is_stored_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_amx: bool, stored: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    tiny.model().to(stored).save_pretrained(tmp_path)
    nets = Networks.load(tmp_path, tiny.settings())
    is_rounded = has_amx and stored == torch.bfloat16
    assert nets._precision == (torch.bfloat16 if is_rounded else torch.float32)


def test_a_base_is_loaded_from_its_directory(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    nets = Networks.load(tmp_path, tiny.settings())
    batch = tiny.random_batch()
    assert nets.pad_id == tiny.PAD
    assert torch.equal(nets.base_logprobs(batch), tiny.networks().base_logprobs(batch))
    nets.policy.export(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path)
