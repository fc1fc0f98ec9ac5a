"""Adapter directories: without tensors, for the store, or with random weights that vLLM serves."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tempo_storage.adapters import FILES, AdapterStore, Manifest

CONFIG, WEIGHTS = FILES


def write_empty_adapter(directory: Path, *, rank: int = 8) -> None:
    """Write an adapter of no tensors: enough for the store, which hashes files."""
    (directory / CONFIG).write_text(json.dumps({"r": rank}))
    header = b"{}"
    (directory / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


def publish_empty_adapter(store: AdapterStore, name: str, *, base: str, rank: int = 8) -> Manifest:
    """Publish an adapter of no tensors under a name."""
    return store.publish(
        name, lambda directory: write_empty_adapter(directory, rank=rank), base=base
    )


def write_lora(directory: Path, model: Path, *, scale: float, seed: int, rank: int) -> None:
    """Write a PEFT adapter with normal weights on every linear layer of a Qwen3 model."""
    config = json.loads((model / "config.json").read_text())
    shapes = _shapes(config)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (inputs, outputs) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            a = random.normal(0, inputs**-0.5, (rank, inputs))
            b = random.normal(0, scale * rank**-0.5, (outputs, rank))
            tensors[f"{prefix}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, directory / WEIGHTS)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(name.split(".")[1] for name in shapes),
    }
    (directory / CONFIG).write_text(json.dumps(settings))


def quadruple_alpha(directory: Path) -> None:
    """Multiply an adapter's alpha by four, and with it the effect of its weights."""
    path = directory / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))


def flip_a_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _shapes(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear module of a layer."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    attention = config["num_attention_heads"] * config["head_dim"]
    return {
        "self_attn.q_proj": (hidden, attention),
        "self_attn.k_proj": (hidden, attention),
        "self_attn.v_proj": (hidden, attention),
        "self_attn.o_proj": (attention, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
