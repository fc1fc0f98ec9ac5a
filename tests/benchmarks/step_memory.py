"""Measure the peak memory of a policy step against that of the same step with all its logits.

    python tests/benchmarks/step_memory.py [--plain-rows 2]

Eight responses of 2,048 tokens, a vocabulary of 150,000, and a model so small that only the logits
count. Each step runs in a process of its own; the figure is the growth of its peak memory. The
plain step keeps all float32 logits. Its memory grows in proportion to the rows, so a machine
without room for eight rows can measure fewer (`--plain-rows`), and the table's row says so.
"""

import argparse
import math
import resource
import subprocess
import sys
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import refine
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.settings import TrainerSettings

ROWS = 8
LENGTH = 2048
VOCABULARY = 150_000
HIDDEN = 32
GIB = 2**30


def networks() -> Networks:
    """Return a model of one layer with adapters."""
    shape = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "head_dim": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=True, **shape, **heads)
    return Networks(Qwen3ForCausalLM(config), TrainerSettings(device="cpu"))


def responses(rows: int) -> Batch:
    """Return random responses, all of full length."""
    ids = torch.randint(VOCABULARY, (rows, LENGTH)).tolist()
    logprobs = [-math.log(VOCABULARY)] * LENGTH
    rollouts = [Rollout("q", [1], row, logprobs, 0, "length", False) for row in ids]
    return Batch.collate(rollouts, 0)


def plain(nets: Networks, batch: Batch) -> None:
    """Compute the same gradient through full float32 logits."""
    with nets.policy.active():
        hidden = nets.states(batch, nets.policy.name)
        logits = (hidden @ nets.lm_head.T).float()
        logprobs = logits.log_softmax(-1).gather(1, batch.tokens[batch.mask > 0][:, None])
        torch.autograd.backward(-logprobs.mean())


def measure(kind: str, rows: int) -> float:
    """Return the bytes by which a step raises the peak of this process."""
    torch.set_num_threads(1)
    nets = networks()
    batch = responses(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "plain":
        plain(nets, batch)
    else:
        refine(nets.policy, batch, torch.randn_like(batch.mask), TrainerSettings(device="cpu"))
    return 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def apart(kind: str, rows: int) -> float:
    """Measure in a fresh process."""
    command = [sys.executable, str(Path(__file__)), "--measure", kind, "--plain-rows", str(rows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description="peak memory of a policy step")
    parser.add_argument("--plain-rows", type=int, default=ROWS)
    parser.add_argument("--measure", choices=["step", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure, options.plain_rows))
        return
    rows = options.plain_rows
    step = apart("step", ROWS)
    full = apart("plain", rows) * ROWS / rows
    scaled = "" if rows == ROWS else f", from {rows} rows"
    print(
        f"| peak memory of a policy step, {ROWS} × {LENGTH:,} tokens, vocabulary {VOCABULARY:,}: "
        f"ours, full float32 logits{scaled} | {step / GIB:.2f} GiB, {full / GIB:.1f} GiB "
        f"({step / full:.3f}) |"
    )


if __name__ == "__main__":
    main()
