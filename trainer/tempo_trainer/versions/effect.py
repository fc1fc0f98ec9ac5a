"""Store with a version what the trainer computes, so that each server can compare what it serves.

    probe.json: {"sequences": [{"prompt", "response", "policy", "base"}, …]}

Token ids, and each response token's log-probability with the adapter and without.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tempo_storage.adapters import PROBE_FILE
from tempo_trainer.algorithm.batch import Batch, Rollout, forward_no_grad
from tempo_trainer.algorithm.networks import Networks

SEQUENCES = 8
LONGEST_RESPONSE = 128  # the beginning of a long one shows the effect as well, for less
LONGEST = 512


def choose(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return one rollout, cut to size, of each of the first few questions that are short enough."""
    chosen: dict[str, Rollout] = {}
    for rollout in rollouts:
        room = min(LONGEST_RESPONSE, LONGEST - len(rollout.prompt_ids))
        if rollout.response_ids and room > 0 and rollout.question_id not in chosen:
            chosen[rollout.question_id] = replace(
                rollout, response_ids=rollout.response_ids[:room], logprobs=rollout.logprobs[:room]
            )
    return list(chosen.values())[:SEQUENCES]


def write(
    directory: Path, networks: Networks, rollouts: Iterable[Rollout], *, max_tokens: int
) -> None:
    """Write what policy and base say of a few rollouts; nothing when none is short enough."""
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
