"""Store with a version the trainer's own log-probabilities; a server compares its own with them.

    probe.json: {"sequences": [{"prompt", "response", "policy", "base"}, …]}

`prompt` and `response` are token ids. `policy` and `base` are the log-probabilities of each
response token with the adapter and without it.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tempo_storage.adapters import PROBE_FILE
from tempo_trainer.algorithm.batch import Batch, Rollout, forward_no_grad
from tempo_trainer.algorithm.networks import Networks

SEQUENCES = 8
MAX_RESPONSE = 128  # the beginning of a long response shows the effect as well, and costs less
MAX_SEQUENCE = 512


def choose(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return one rollout, cut to size, of each of the first few questions that are short enough."""
    chosen: dict[str, Rollout] = {}
    for rollout in rollouts:
        room = min(MAX_RESPONSE, MAX_SEQUENCE - len(rollout.prompt_ids))
        if rollout.response_ids and room > 0 and rollout.content_hash not in chosen:
            chosen[rollout.content_hash] = replace(
                rollout, response_ids=rollout.response_ids[:room], logprobs=rollout.logprobs[:room]
            )
    return list(chosen.values())[:SEQUENCES]


def write(
    directory: Path, networks: Networks, rollouts: Iterable[Rollout], *, max_tokens: int
) -> None:
    """Write the log-probabilities of a few rollouts; write nothing if none is short enough.

    A forward pass takes at most `max_tokens` padded tokens.
    """
    chosen = choose(rollouts)
    if not chosen:
        return
    batch = Batch.collate(chosen, networks.pad_id)
    policy = forward_no_grad(networks.policy.logprobs, batch, max_tokens)
    base = forward_no_grad(networks.base_logprobs, batch, max_tokens)
    sequences = [
        {
            "prompt": list(rollout.prompt_ids),
            "response": list(rollout.response_ids),
            "policy": policy[row, : len(rollout.response_ids)].tolist(),
            "base": base[row, : len(rollout.response_ids)].tolist(),
        }
        for row, rollout in enumerate(chosen)
    ]
    (directory / PROBE_FILE).write_text(json.dumps({"sequences": sequences}))
