"""Measure the phases of an iteration with each prompt computed once, beside padded rows.

    python tests/benchmarks/shared_prompts.py MODEL [--threads 1] [--prompt 40] [--response 16]

MODEL is a directory. The batch has 12 labeled and 16 unlabeled questions, 8 held-out ones, and
eight responses to each, of half to all of `--response` tokens. Both ways take turns in one process;
a figure is the median of the turns. The padded way may have another precision and another number of
threads: `--padded-dtype float32 --padded-threads 1` is the trainer as it was before it shared
prompts. Prints the rows of the table in trainer/docs/results.md. A rate counts the tokens of prompt
and response of each row, and counts them alike in both ways.
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
    options = _options()
    ways = {
        False: _networks(options, options.padded_dtype or options.dtype),
        True: _networks(options, options.dtype),
    }
    threads = {False: options.padded_threads or options.threads, True: options.threads}
    enabled = ways[True]._shares_prompts
    ways[False]._shares_prompts = False
    seconds: dict[str, dict[bool, list[float]]] = {}
    for turn in range(options.turns + 1):  # the first one warms up
        for shared, nets in ways.items():
            torch.set_num_threads(threads[shared])
            for name, phase in phases(nets, options).items():
                start = time.perf_counter()
                phase()
                if turn:
                    rows = seconds.setdefault(name, {False: [], True: []})
                    rows[shared].append(time.perf_counter() - start)
    _print(seconds, options)
    print(json.dumps(vars(options) | {"enabled": enabled}))


def _networks(options: argparse.Namespace, dtype: str) -> Networks:
    return Networks.load(options.model, TrainerSettings(device=options.device, dtype=dtype))


def _print(seconds: dict[str, dict[bool, list[float]]], options: argparse.Namespace) -> None:
    row = options.prompt + options.response * 0.75  # tokens, on average
    questions = {
        "E-step": 2 * LABELED,
        "values": UNLABELED + LABELED + HELD_OUT,
        "M-step": UNLABELED + LABELED,
    }
    medians = {
        name: {way: median(turns) for way, turns in s.items()} for name, s in seconds.items()
    }
    medians["all"] = {way: sum(m[way] for m in medians.values()) for way in (False, True)}
    questions["all"] = sum(questions.values())
    for name, of_way in medians.items():
        tokens = questions[name] * GROUP * row
        cells = [f"{of_way[way]:.1f} s, {tokens / of_way[way]:,.0f}" for way in (False, True)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {of_way[False] / of_way[True]:.2f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--padded-dtype", help="default: as --dtype")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--padded-threads", type=int, help="default: as --threads")
    parser.add_argument("--prompt", type=int, default=40)
    parser.add_argument("--response", type=int, default=16)
    parser.add_argument("--micro", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
