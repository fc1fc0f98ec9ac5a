"""Measure dense and stock LoRA on vLLM's CPU backend: tokens per second, and the base's answers.

    python tests/benchmarks/cpu_lora.py MODEL [--flag=--dtype=float32 …]

It serves MODEL three times: without adapters, with vLLM's own LoRA operators, and with those of
tempo_server. It measures them by turns, so that a machine whose speed drifts favours none, and
prints a table of the documentation: medians of a few turns. MODEL must be small. The sequences have
14 tokens after a prompt of 8.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

CONCURRENCY = (1, 8, 64)
SAMPLES = 8
TOKENS = 14
PROMPT_TOKENS = 8
RANK = 16
SECONDS = 4.0
TURNS = 3
START_SECONDS = 300


def write_adapter(directory: Path, model: Path, *, seed: int, scale: float = 1.0) -> Path:
    """Write a PEFT adapter with random matrices on every linear layer of a Qwen3."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tensors = {}
    for name, module in AutoModelForCausalLM.from_pretrained(model).named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            rows, columns = module.weight.shape
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, columns) / columns**0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, RANK) * scale / RANK**0.5
    targets = sorted({key.split(".")[-3] for key in tensors})
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@contextmanager
def served(model: Path, flags: list[str], env: dict[str, str]) -> Iterator[httpx.Client]:
    """Serve a model on a free port until the block ends; yield a client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name=base", f"--port={port}", "--max-model-len=128", *flags]
    command += ["--gpu-memory-utilization=0.3"]  # three share the machine
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = Path(tempfile.mkdtemp(prefix="cpu-lora-")) / "vllm.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=os.environ | settings | env
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            wait(client, process, log)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server is healthy; raise RuntimeError, which names its log, if it is not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get("/health").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.25)
        else:
            return
    raise RuntimeError(f"vLLM does not start; read {log}")


def complete(
    client: httpx.Client, model: str, prompts: list[list[int]], **sampling: Any
) -> list[list[int]]:
    """Return the sampled token ids, prompt by prompt."""
    body = {"model": model, "prompt": prompts, "max_tokens": TOKENS, "return_token_ids": True}
    answer = client.post("/v1/completions", json=body | {"ignore_eos": True} | sampling)
    answer.raise_for_status()
    return [choice["token_ids"] for choice in answer.json()["choices"]]


def prompt(index: int) -> list[int]:
    """Return the ids of a prompt in the vocabulary of a small model."""
    return [1 + (index * 31 + position * 7) % 100 for position in range(PROMPT_TOKENS)]


def tokens_per_second(client: httpx.Client, model: str, concurrency: int) -> float:
    """Sample for some seconds, `concurrency` sequences in flight, each request 8 of them."""
    samples = min(SAMPLES, concurrency)
    deadline = 0.0

    def loop(seed: int) -> int:
        tokens = 0
        while time.monotonic() < deadline:
            responses = complete(client, model, [prompt(seed + tokens)], n=samples, logprobs=0)
            tokens += sum(map(len, responses))
        return tokens

    workers = concurrency // samples
    with ThreadPoolExecutor(workers) as threads:
        for seconds in (1.0, SECONDS):  # the first is warm-up
            start = time.monotonic()
            deadline = start + seconds
            tokens = sum(threads.map(loop, range(workers)))
    return tokens / (time.monotonic() - start)


def by_turns(servers: Sequence[tuple[httpx.Client, str]], concurrency: int) -> list[float]:
    """Return each server's median tokens per second; they are measured one after the other."""
    turns = [[tokens_per_second(*pair, concurrency) for pair in servers] for _ in range(TURNS)]
    return [median(speeds) for speeds in zip(*turns, strict=True)]


def changed_answers(client: httpx.Client) -> int:
    """Return how many of 32 greedy answers of the base change if adapters share its batch."""
    prompts = [prompt(index) for index in range(32)]
    alone = complete(client, "base", prompts, temperature=0)
    with ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(complete, client, name, prompts, temperature=0)
            for name in ("base", "a", "b")
        ]
        mixed = jobs[0].result()
    return sum(one != other for one, other in zip(alone, mixed, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--flag", action="append", default=[], help="passed on to vLLM")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="cpu-lora-"))
    adapters = [
        f"{name}={write_adapter(home / name, options.model, seed=seed)}"
        for seed, name in enumerate("ab")
    ]
    # As many slots as adapters: an empty last slot would hide the effect on the base's rows.
    lora = ["--enable-lora", "--max-loras=2", f"--max-lora-rank={RANK}", "--lora-modules"]
    lora += adapters
    variants = (
        ("base, no LoRA", "base", "none", []),
        ("LoRA, stock", "a", "none", lora),
        ("LoRA, tempo", "a", "tempo_cpu_lora", lora),
    )
    header = ["tokens/s, sequences in flight", *map(str, CONCURRENCY), "base's answers changed"]
    print("|", " | ".join(header), "|\n" + "|---" * len(header) + "|", flush=True)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                served(options.model, options.flag + flags, {"VLLM_PLUGINS": plugins})
            )
            for _, _, plugins, flags in variants
        ]
        servers = list(zip(clients, (name for _, name, *_ in variants), strict=True))
        speeds = [by_turns(servers, concurrency) for concurrency in CONCURRENCY]
        for index, (title, *_, flags) in enumerate(variants):
            own = [f"{medians[index]:.3g}" for medians in speeds]
            changed = f"{changed_answers(clients[index])} of 32" if flags else "-"
            print("|", " | ".join([title, *own, changed]), "|", flush=True)


if __name__ == "__main__":
    main()
