"""Policy and critic: one frozen base, two LoRA adapters, a value head.

    with policy.active():
        loss(policy.logprobs(batch)).backward()

PEFT computes with one adapter at a time and silently takes the gradient from the other one. So
adapters are switched in `Networks.active` and nowhere else, and a backward pass that runs while the
other adapter is active raises AdapterSwitchError.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tempo_storage.errors import TempoError
from tempo_trainer.algorithm import loading, shared_prefix
from tempo_trainer.algorithm.batch import Batch
from tempo_trainer.algorithm.heads import ValueHead, token_logprobs
from tempo_trainer.algorithm.loading import UnsupportedModelError
from tempo_trainer.algorithm.optimiser import Groups, Optimiser
from tempo_trainer.algorithm.shared_prefix import Layout
from tempo_trainer.settings import TrainerSettings

POLICY = "policy"
CRITIC = "critic"


class AdapterSwitchError(TempoError, RuntimeError):
    """A backward pass ran while the other adapter was active, so its gradients would be lost."""


class StateMismatchError(TempoError, ValueError):
    """The saved state has other adapters; restore with the settings that it was saved with."""


class Networks:
    """The frozen base, its two adapters and the value head."""

    def __init__(self, base: PreTrainedModel, settings: TrainerSettings) -> None:
        base.requires_grad_(False).eval()
        if settings.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            _checkpoint_without_dropout(base)
        probe = torch.arange(4, device=base.device)[None] % base.config.vocab_size
        with torch.no_grad():
            expected = base(input_ids=probe, use_cache=False).logits.float().log_softmax(-1)
        self._backbone = getattr(base, base.base_model_prefix)
        self.lm_head: Tensor = base.get_output_embeddings().weight
        self._precision: torch.dtype = base.dtype
        self._rounds = base.dtype == torch.bfloat16
        self._active: str | None = None
        self._shares_prompts = shared_prefix.enable(base)
        self.device: torch.device = base.device
        self.pad_id = int(base.config.pad_token_id or 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._model = self._add_adapters(base, settings)
        self.policy = Policy(self, settings)
        self.critic = Critic(self, settings)
        self._raise_if_other_logits(probe[0], expected[0])

    @classmethod
    def load(cls, model_dir: str | Path, settings: TrainerSettings) -> "Networks":
        """Load the base from a directory or the local cache, and add fresh adapters.

        Raises UnsupportedModelError for a base that transformers cannot load.
        """
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = settings.dtype
        if dtype == "auto":
            is_rounded = device != "cpu" or loading.is_fast_in_bfloat16(model_dir)
            dtype = "bfloat16" if is_rounded else "float32"
        with loading.loading_errors(model_dir):
            base = AutoModelForCausalLM.from_pretrained(
                str(model_dir), dtype=getattr(torch, dtype), attn_implementation="sdpa"
            )
        return cls(base.to(device), settings)

    @contextmanager
    def active(self, adapter: str) -> Iterator[None]:
        """Compute with POLICY's or CRITIC's adapter; put forward and backward inside together."""
        before = self._active
        self._switch(adapter)
        try:
            yield
        finally:
            self._switch(before)

    def base_logprobs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Return log π_base(y_t | x, y<t), with the adapters off."""
        with torch.no_grad(), self._model.disable_adapter():
            return self.logprobs(batch, None)

    def logprobs(self, batch: Batch, adapter: str | None) -> Float[Tensor, "B T"]:
        """Return log π(y_t | x, y<t) at response positions, 0 on padding."""
        tokens = batch.tokens.to(self.device)[batch.mask.to(self.device).bool()]  # (N,)
        states = self.states(batch, adapter)
        return _spread(token_logprobs(states, self.lm_head, tokens), batch.mask)

    def next_logprobs(
        self, ids: Int[Tensor, "B S"], cache: Any, adapter: str
    ) -> Float[Tensor, "B V"]:
        """Return log π(· | ids) of the next token, and add keys and values to the `cache`."""
        with torch.no_grad():
            last = self._hidden(ids.to(self.device), adapter, cache)[:, -1]
            return (last @ self.lm_head.T).float().log_softmax(-1)

    def states(self, batch: Batch, adapter: str | None) -> Float[Tensor, "N H"]:
        """Return the last layer's state before each of the N response tokens, row after row."""
        if self._shares_prompts and batch.shares_prompts():
            layout = Layout.of(batch).to(self.device)
            index = layout.before  # (N,)
            hidden = self._pass(adapter, **layout.arguments())
        else:
            rows = torch.arange(len(batch))[:, None] * batch.ids.shape[1]  # (B, 1)
            index = (batch.positions + rows)[batch.mask.bool()].to(self.device)  # (N,)
            hidden = self._hidden(batch.ids.to(self.device), adapter)
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._raise_if_other_adapter(adapter))
        states: Tensor = hidden.flatten(0, 1).index_select(0, index)
        return states

    def adapter_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """Return the parameters of POLICY's or CRITIC's adapter by name."""
        return {n: p for n, p in self._model.named_parameters() if f".{adapter}." in n}

    def state_dict(self) -> dict[str, Any]:
        """Return adapters, value head and both optimisers, copied to the CPU."""
        return {
            "weights": {name: p.detach().cpu().clone() for name, p in self._trained().items()},
            "optimisers": {a.name: a.optimiser.state_dict() for a in (self.policy, self.critic)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; raise StateMismatchError for other adapters."""
        trained = self._trained()
        weights = state["weights"]
        shapes = {name: tuple(p.shape) for name, p in trained.items()}
        if {name: tuple(tensor.shape) for name, tensor in weights.items()} != shapes:
            raise StateMismatchError(
                f"the {len(weights)} tensors of the saved state do not fit the {len(shapes)} of"
                " these adapters; restore with the base model and the ranks it was saved with"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        for adapter in (self.policy, self.critic):
            adapter.optimiser.load_state_dict(state["optimisers"][adapter.name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {
            **self.adapter_parameters(POLICY),
            **self.adapter_parameters(CRITIC),
            **dict(self.critic.value_head.named_parameters(prefix="value_head")),
        }

    def _add_adapters(self, base: PreTrainedModel, settings: TrainerSettings) -> Any:
        modules = self._backbone.named_modules()
        linear = {n.rsplit(".", 1)[-1] for n, module in modules if isinstance(module, nn.Linear)}
        lora = partial(LoraConfig, target_modules=linear, task_type="CAUSAL_LM")
        policy = lora(r=settings.lora_rank, lora_alpha=settings.lora_alpha)
        critic_alpha = round(settings.lora_alpha * settings.critic_rank / settings.lora_rank)
        critic = lora(r=settings.critic_rank, lora_alpha=max(1, critic_alpha))
        model = get_peft_model(base, policy, adapter_name=POLICY)
        model.add_adapter(CRITIC, critic)
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False  # autocast does it, without float32 copies
        return model

    def _hidden(
        self, ids: Int[Tensor, "B S"], adapter: str | None, cache: Any = None
    ) -> Float[Tensor, "B S H"]:
        use_cache = cache is not None
        return self._pass(adapter, input_ids=ids, past_key_values=cache, use_cache=use_cache)

    def _pass(self, adapter: str | None, **arguments: Any) -> Tensor:
        # Adapters are float32; under autocast the pass rounds them as vLLM's bfloat16 copy is.
        with (
            self.active(adapter) if adapter else nullcontext(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self._rounds),
        ):
            hidden: Tensor = self._backbone(**arguments).last_hidden_state
        return hidden

    def _switch(self, adapter: str | None) -> None:
        if adapter is not None and adapter != self._active:
            self._model.set_adapter(adapter)
        self._active = adapter

    def _raise_if_other_adapter(self, adapter: str | None) -> None:
        if self._active != adapter:
            raise AdapterSwitchError(
                f"the backward pass of the {adapter} ran while the active adapter was"
                f" {self._active}; keep forward and backward inside one `with {adapter}.active()`"
            )

    def _raise_if_other_logits(self, ids: Int[Tensor, "S"], expected: Float[Tensor, "S V"]) -> None:
        """Raise unless fresh adapters, hidden states and lm_head give the base's own logits."""
        with torch.no_grad():
            hidden = self._hidden(ids[None], POLICY)[0]
        gap = token_logprobs(hidden, self.lm_head, ids) - expected.gather(1, ids[:, None])[:, 0]
        if float(gap.abs().max()) > (0.1 if self._rounds else 1e-3):
            raise UnsupportedModelError(
                f"log-probabilities differ by {float(gap.abs().max()):.3g} nats from the base"
                " model's own; models that scale or cap their logits cannot be trained"
            )


class TrainedAdapter:
    """One adapter, and the optimiser of its parameters and of those trained with it."""

    name: str

    def __init__(self, networks: Networks, groups: Groups, settings: TrainerSettings) -> None:
        self._networks = networks
        self.optimiser = Optimiser(groups, settings)

    def active(self) -> AbstractContextManager[None]:
        """Return the context in which forward and backward passes with this adapter run."""
        return self._networks.active(self.name)


class Policy(TrainedAdapter):
    """π_θ: the base with the policy's adapter.

    It answers the worker's rollouts; a promoted copy of it answers users.
    """

    name = POLICY

    def __init__(self, networks: Networks, settings: TrainerSettings) -> None:
        adapter = list(networks.adapter_parameters(POLICY).values())
        super().__init__(networks, [(adapter, settings.policy_learning_rate)], settings)

    def logprobs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Return log π_θ(y_t | x, y<t), 0 on padding."""
        return self._networks.logprobs(batch, POLICY)

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Compute and export with the adapter times `factor` (WiSE-FT, arXiv:2109.01903)."""
        # An adapter is the product B A: scaling B scales it.
        named = self._networks.adapter_parameters(POLICY).items()
        weights = [(p, p.detach().clone()) for name, p in named if ".lora_B." in name]
        try:
            with torch.no_grad():
                for parameter, _ in weights:
                    parameter.mul_(factor)
            yield
        finally:
            with torch.no_grad():
                for parameter, own in weights:
                    parameter.copy_(own)

    def base_logprobs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Return log π_base(y_t | x, y<t), 0 on padding, without gradient."""
        return self._networks.base_logprobs(batch)

    def export(self, directory: Path) -> None:
        """Write the adapter as PEFT's two files, in the base's precision, for vLLM to load."""
        model = self._networks._model
        precision = self._networks._precision
        config = model.peft_config[POLICY].to_dict()
        config["target_modules"] = sorted(config["target_modules"])
        config["inference_mode"] = True
        weights = get_peft_model_state_dict(model, adapter_name=POLICY)
        directory.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.detach().to("cpu", precision).contiguous() for k, v in weights.items()},
            directory / "adapter_model.safetensors",
        )
        text = json.dumps(config, indent=2, sort_keys=True, default=str)
        (directory / "adapter_config.json").write_text(text)


class Critic(TrainedAdapter):
    """V_φ: the base with the critic's adapter, and the value head."""

    name = CRITIC

    def __init__(self, networks: Networks, settings: TrainerSettings) -> None:
        self.value_head = ValueHead(networks.lm_head.shape[1]).to(networks.device)
        adapter = list(networks.adapter_parameters(CRITIC).values())
        head = list(self.value_head.parameters())
        groups = [
            (adapter, settings.critic_learning_rate),
            (head, settings.value_head_learning_rate),
        ]
        super().__init__(networks, groups, settings)

    def values(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Return V_φ(x, y<t), 0 on padding."""
        return _spread(self.value_head(self._networks.states(batch, CRITIC)), batch.mask)


def _checkpoint_without_dropout(base: PreTrainedModel) -> None:
    """Set only the modules that checkpoint to training mode, and switch their own dropout off.

    Transformers checkpoints in training mode only.

    With dropout two passes over one batch would differ: the ratio of an on-policy step would not
    be 1, and the critic would be measured with noise.
    """
    for module in base.modules():
        if not hasattr(module, "gradient_checkpointing"):
            continue
        module.training = True  # of this module alone; `train()` would reach the ones inside
        # Some layers apply their own dropout, or skip themselves, where `training` is true.
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _spread(flat: Float[Tensor, "N"], mask: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return torch.zeros_like(mask).masked_scatter(mask.bool(), flat.to(mask.device))
