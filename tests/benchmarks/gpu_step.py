"""Measure a policy step and a critic step at Qwen3-8B's shape on one GPU, beside TRL's GRPO step.

    python tests/benchmarks/gpu_step.py [--kinds policy,critic,trl] [--no-checkpointing]

Eight responses of 2,048 tokens after prompts of 64, random bfloat16 weights, LoRA of rank 16 on
every linear layer. Each measurement runs in a process of its own: one optimiser step to warm up,
then the median of several steps, all over the same eight rows. If eight rows do not fit in memory
at once, they are cut into micro-batches, and the table's row says so. TRL's trainer runs unchanged
(`pip install trl`), except for the sampling: its batches are random tokens, and its time counts
from one batch to the next.

The share of the peak counts the operations that a step with frozen weights must make, per row of S
tokens, T of which are the response's. It counts neither the adapters (1 %) nor recomputation:

    4 P S + 4 V H T + 3 · (2 · 2 · layers · heads · head_dim · S² / 2)

P are the layers' weights: 2 P S forward, 2 P S backward. V H are lm_head's, which the critic does
not use. The last term is causal attention: two products forward, twice that backward.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import recalibrate, refine
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.settings import TrainerSettings

Options = argparse.Namespace
DEFAULTS = {"rows": 8, "length": 2048, "prompt": 64, "steps": 5}
DEFAULTS |= {"layers": 36, "hidden": 4096, "vocabulary": 151_936}
HEAD_DIM = 128
RANK = 16
GIB = 2**30
PEAK = 989.4e12  # dense bfloat16 FLOP/s of an H100 or H200 (SXM), by its data sheet
NAMES = {"policy": "our policy step", "critic": "our critic step", "trl": "TRL's GRPO step"}
NAMES |= {"trl-liger": "TRL's GRPO step, Liger's layers"}


def flops(kind: str, options: Options) -> float:
    """Return the floating-point operations of a step, by the formula of the module."""
    hidden = options.hidden
    layers = options.layers
    tokens = options.prompt + options.length
    weights = layers * (2 * hidden * (hidden + hidden // 4) + 3 * hidden * 3 * hidden)
    head = 0 if kind == "critic" else 4 * options.vocabulary * hidden * options.length
    attention = 3 * 2 * 2 * layers * hidden * tokens**2 / 2  # the heads are as wide as the model
    return float(options.rows * (4 * weights * tokens + head + attention))


def now() -> float:
    """Return the time, after the GPU has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(options: Options) -> Any:
    """Return a model of Qwen3-8B's shape, with the layers and the width of the options."""
    hidden = options.hidden
    heads = options.hidden // HEAD_DIM
    width = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "head_dim": HEAD_DIM}
    count = {"num_hidden_layers": options.layers, "num_attention_heads": heads}
    count |= {"num_key_value_heads": heads // 4, "vocab_size": options.vocabulary}
    config = Qwen3Config(**width, **count, tie_word_embeddings=False)
    with torch.device(options.device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def random_ids(options: Options) -> tuple[Tensor, Tensor]:
    """Return prompts and responses, all of full length."""
    size = (options.rows, options.prompt + options.length)
    ids = torch.randint(options.vocabulary, size, device=options.device)
    return ids[:, : options.prompt], ids[:, options.prompt :]


def ours(kind: str, model: Any, options: Options) -> list[float]:
    """Return the times at which our steps start, and the time at which the last one ends."""
    settings = TrainerSettings(
        device=options.device,
        gradient_checkpointing=options.checkpointing,
        tokens_per_microbatch=options.micro * (options.prompt + options.length),
        critic_epochs=1,
        replay_batches=0,
    )
    logprobs = [-math.log(options.vocabulary)] * options.length
    prompts, responses = (part.tolist() for part in random_ids(options))
    rollouts = [
        Rollout("q", prompt, ids, logprobs, 0, "length", True, 1.0 - 2.0 * (row % 2))
        for row, (prompt, ids) in enumerate(zip(prompts, responses, strict=True))
    ]
    batch = Batch.collate(rollouts, 0)
    nets = Networks(model, settings)
    step: Callable[[], Any] = partial(recalibrate, nets.critic, [batch], settings)
    if kind == "policy":
        step = partial(refine, nets.policy, batch, torch.randn_like(batch.mask), settings)
    times = [now()]
    for _ in range(options.steps + 1):
        step()
        times.append(now())
    return times


def trl(kind: str, model: Any, options: Options) -> list[float]:
    """Return the times at which TRL's trainer takes a batch, one for each step."""
    from datasets import Dataset, table
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir="/tmp/gpu-step",
        per_device_train_batch_size=options.micro,
        gradient_accumulation_steps=options.rows // options.micro,
        num_generations=options.rows,
        max_steps=options.steps + 2,  # the last batch ends the last step that counts
        gradient_checkpointing=options.checkpointing,
        bf16=True,
        use_cpu=options.device == "cpu",
        use_liger_kernel=kind == "trl-liger",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    prompts = table.InMemoryTable.from_pydict({"prompt": ["x"] * 64})
    words = Tokenizer(WordLevel({"x": 0}, unk_token="x"))
    lora = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset(prompts, fingerprint="x"),  # or it pickles the table, and may fail
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="x"),
        peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
    )
    times: list[float] = []

    def sample(_: Any) -> dict[str, Tensor]:
        times.append(now())
        prompt, response = random_ids(options)
        return {
            "prompt_ids": prompt,
            "prompt_mask": torch.ones_like(prompt),
            "completion_ids": response,
            "completion_mask": torch.ones_like(response),
            "advantages": torch.randn(options.rows, device=options.device),
            "num_items_in_batch": torch.tensor(response.numel(), device=options.device),
        }

    trainer._generate_and_score_completions = sample
    trainer.train()
    return times


def measure(kind: str, options: Options) -> dict[str, Any]:
    """Measure in this process; return the seconds of each step, and bytes on the GPU."""
    figures: dict[str, Any] = {"kind": kind, "micro": options.micro}
    try:
        if options.micro > options.fits:
            raise torch.OutOfMemoryError("simulated")
        model = random_model(options)
        figures["weights"] = torch.cuda.memory_allocated()
        times = (trl if kind.startswith("trl") else ours)(kind, model, options)
    except torch.OutOfMemoryError:
        return {**figures, "error": "out of memory"}
    figures["card"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    seconds = [after - before for before, after in pairwise(times)][1:]
    return {**figures, "seconds": seconds, "peak": torch.cuda.max_memory_allocated()}


def apart(kind: str, micro: int) -> dict[str, Any]:
    """Measure in a fresh process; if the rows do not fit, again with half of them at once."""
    arguments = [*sys.argv[1:], "--measure", kind, "--micro", str(micro)]
    child = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if child.returncode:
        print(child.stderr[-4000:], file=sys.stderr, flush=True)
        return {"micro": micro, "error": f"failed with status {child.returncode}"}
    figures: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    print(json.dumps(figures), file=sys.stderr, flush=True)
    return apart(kind, micro // 2) if "error" in figures and micro > 1 else figures


def row(kind: str, options: Options) -> str:
    """Return a measurement as a row of Markdown."""
    figures = apart(kind, options.rows)
    cut = "" if figures["micro"] == options.rows else f", {figures['micro']} rows a micro-batch"
    without = "" if options.checkpointing else ", no checkpointing"
    step = f"| {NAMES[kind]}, {options.rows} × {options.length:,} tokens{without}{cut} | "
    if "error" in figures:
        return f"{step}{figures['error']} | | | | |"
    seconds = median(figures["seconds"])
    speed = options.rows * (options.prompt + options.length) / seconds
    share = flops(kind, options) / seconds / PEAK
    card = figures["card"].removeprefix("NVIDIA ")
    peak = figures["peak"] / GIB
    weights = figures["weights"] / GIB
    return f"{step}{card} | {speed:,.0f} | {share:.1%} | {peak:.1f} | {weights:.1f} |"


def main() -> None:
    """Print a row for each kind of step."""
    parser = argparse.ArgumentParser(description="speed and memory of a training step on a GPU")
    parser.add_argument("--kinds", default="policy,critic,trl", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cuda")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name in ("micro", "fits"):
        parser.add_argument(f"--{name}", type=int, default=sys.maxsize, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    print("| step | card | tokens/s | share of the peak | peak GiB | weights, GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in options.kinds.split(","):
        print(row(kind, options), flush=True)


if __name__ == "__main__":
    main()
