"""Measure the phases of an iteration with each prompt computed once, beside padded rows.

    python tests/benchmarks/shared_prompts.py MODEL [--threads 1] [--prompt 40] [--response 16]

MODEL is a directory. The batch has 12 labeled and 16 unlabeled questions, 8 held-out ones, and
eight responses to each, of half to all of `--response` tokens. Both ways take turns in one process;
a figure is the median of the turns. Prints the rows of the table in trainer/docs/results.md.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from tempo_trainer.algorithm.batch import Batch, Rollout, forward_no_grad
from tempo_trainer.algorithm.em import advantage_signal, recalibrate, refine
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.settings import TrainerSettings

GROUP = 8
LABELED = 12
HELD_OUT = 8
UNLABELED = 16


def batch(
    numbers: range, draw: random.Random, options: argparse.Namespace, *, labeled: bool
) -> Batch:
    """Return random rollouts: eight responses to each question."""
    rows = []
    for number in numbers:
        prompt = [draw.randrange(100, 1000) for _ in range(options.prompt)]
        for place in range(GROUP):
            length = draw.randint(options.response // 2, options.response)
            ids = [draw.randrange(100, 1000) for _ in range(length)]
            outcome = (1.0 if place % 2 else -1.0) if labeled else float("nan")
            rows.append(
                Rollout(str(number), prompt, ids, [-6.0] * length, number, "stop", labeled, outcome)
            )
    return Batch.collate(rows, 0)


def phases(nets: Networks, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the phases of an iteration by name."""
    draw = random.Random(0)
    settings = TrainerSettings(
        device=options.device,
        replay_batches=1,
        kl_coefficient=0.1,
        tokens_per_microbatch=options.micro,
    )
    fresh = batch(range(LABELED), draw, options, labeled=True)
    replayed = batch(range(100, 100 + LABELED), draw, options, labeled=True)
    held_out = batch(range(200, 200 + HELD_OUT), draw, options, labeled=True)
    unlabeled = batch(range(300, 300 + UNLABELED), draw, options, labeled=False)
    policy = unlabeled.concatenate(fresh)
    size = settings.tokens_per_microbatch
    advantages = torch.randn(policy.mask.shape, generator=torch.Generator().manual_seed(0))

    def values() -> None:
        advantage_signal(nets.critic, policy, settings)
        forward_no_grad(nets.critic.values, held_out, size)

    return {
        "E-step": lambda: recalibrate(nets.critic, [fresh, replayed], settings),
        "values": values,
        "M-step": lambda: refine(nets.policy, policy, advantages * policy.mask, settings),
    }


def main() -> None:
    """Measure by turns and print a row for each phase."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=40)
    parser.add_argument("--response", type=int, default=16)
    parser.add_argument("--micro", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    nets = Networks.load(options.model, TrainerSettings(device=options.device, dtype=options.dtype))
    enabled = nets._shares_prompts
    seconds: dict[str, dict[bool, list[float]]] = {}
    for turn in range(options.turns + 1):  # the first one warms up
        for shared in (False, True):
            nets._shares_prompts = shared and enabled
            for name, phase in phases(nets, options).items():
                start = time.perf_counter()
                phase()
                if turn:
                    rows = seconds.setdefault(name, {False: [], True: []})
                    rows[shared].append(time.perf_counter() - start)
    result = {}
    for name, rows in seconds.items():
        padded = median(rows[False])
        once = median(rows[True])
        result[name] = (padded, once)
        print(f"| {name} | {padded:.1f} s | {once:.1f} s | {padded / once:.2f} |", flush=True)
    padded = sum(pair[0] for pair in result.values())
    once = sum(pair[1] for pair in result.values())
    print(f"| all | {padded:.1f} s | {once:.1f} s | {padded / once:.2f} |")
    print(json.dumps(vars(options) | {"enabled": enabled}))


if __name__ == "__main__":
    main()
