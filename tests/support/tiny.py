"""Random two-layer models, and a bandit on them: an even first token is right."""

import math
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3

from tempo_trainer.algorithm.batch import Batch, Rollout
from tempo_trainer.algorithm.em import em_step, recalibrate
from tempo_trainer.algorithm.networks import Networks
from tempo_trainer.algorithm.reports import EMReport
from tempo_trainer.settings import TrainerSettings

VOCABULARY = 24
PAD = 0
EOS = 1
PROMPTS = ([2, 3], [4, 5], [6, 7], [8, 9])
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": None,
}
LEARNING = {"policy_learning_rate": 0.02, "critic_learning_rate": 0.01}
WARM_UP = 20
DRAWS = 24  # of each prompt: enough have right and wrong responses while the policy is good


def model(family: str = "qwen3") -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "qwen3":
            return Qwen3(Qwen3Config(**SHAPE, tie_word_embeddings=True))
        return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))


def settings(**changed: object) -> TrainerSettings:
    small = {"lora_rank": 8, "critic_rank": 4, "lora_alpha": 16, "device": "cpu"}
    return TrainerSettings(**(small | changed))


def networks(family: str = "qwen3", **changed: object) -> Networks:
    return Networks(model(family), settings(**changed))


def random_batch(rows: int = 6, *, labeled: bool = True, seed: int = 0) -> Batch:
    """Return rows of different lengths with random tokens."""
    g = torch.Generator().manual_seed(seed)

    def ids(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most + 1, (), generator=g))
        return torch.randint(2, VOCABULARY, (length,), generator=g).tolist()

    rollouts = []
    for row in range(rows):
        response = ids(1, 6)
        outcome = (1.0 if row % 2 else -1.0) if labeled else math.nan
        rollouts.append(_rollout(ids(1, 4), response, [-3.0] * len(response), row // 2, outcome))
    return Batch.collate(rollouts, PAD)


# The bandit ---------------------------------------------------------------------------------------


def probabilities(nets: Networks) -> Tensor:
    """Return the policy's distribution of the first token after each prompt (prompts, V)."""
    every = [
        _rollout(prompt, [token], [0.0], 0, math.nan)
        for prompt in PROMPTS
        for token in range(VOCABULARY)
    ]
    with torch.no_grad():
        logprobs = nets.policy.logprobs(Batch.collate(every, PAD))
    return logprobs.exp().reshape(len(PROMPTS), VOCABULARY)


def chance_of_right(nets: Networks) -> float:
    return float(probabilities(nets)[:, ::2].sum(1).mean())


def play(nets: Networks, *, labeled: bool, seed: int, n: int = 16) -> Batch:
    """Return n responses to each prompt: one sampled token, then the end."""
    chances = probabilities(nets)
    actions = chances.multinomial(
        n, replacement=True, generator=torch.Generator().manual_seed(seed)
    )
    rollouts = []
    for group, prompt in enumerate(PROMPTS):
        for action in actions[group].tolist():
            outcome = (1.0 if action % 2 == 0 else -1.0) if labeled else math.nan
            logprob = float(chances[group, action].log())
            rollouts.append(_rollout(prompt, [action, EOS], [logprob, 0.0], group, outcome))
    batch = Batch.collate(rollouts, PAD)
    with torch.no_grad():  # the end was not sampled: its importance weight must be 1
        batch.sampled_logprobs[:, 1] = nets.policy.logprobs(batch)[:, 1]
    return batch


def started(*, warm_up: int = WARM_UP, **changed: Any) -> tuple[Networks, TrainerSettings]:
    """Return networks whose critic had some E-steps, and settings with quick steps."""
    own = settings(**(LEARNING | changed))
    nets = Networks(model(), own)
    nets.load_state_dict(warmed_up(warm_up))
    return nets, own


@cache
def warmed_up(steps: int) -> dict[str, Any]:
    """Return the state of networks after some E-steps; it is computed once for all tests."""
    own = settings(**LEARNING)
    nets = Networks(model(), own)
    for seed in range(steps):
        recalibrate(nets.critic, [play(nets, labeled=True, seed=seed)], own)
    return nets.state_dict()


def held_out(nets: Networks, *, seed: int) -> Batch:
    """Return enough mixed draws to measure a critic: each prompt is drawn several times."""
    draws = [play(nets, labeled=True, seed=1000 * seed + draw, n=8) for draw in range(DRAWS)]
    return reduce(Batch.concatenate, draws)


def iterate(nets: Networks, own: TrainerSettings, *, seed: int = 100) -> EMReport:
    """Make an iteration on fresh responses."""
    return em_step(
        nets,
        labeled=[play(nets, labeled=True, seed=seed)],
        unlabeled=play(nets, labeled=False, seed=seed + 1),
        held_out=held_out(nets, seed=seed + 2),
        settings=own,
    )


def everything(nets: Networks) -> list[Tensor]:
    """Return every weight and every moment of both optimisers."""
    state = nets.state_dict()
    moments = [
        tensor
        for optimiser in state["optimisers"].values()
        for values in optimiser["state"].values()
        for tensor in values.values()
    ]
    return [*state["weights"].values(), *moments]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _rollout(
    prompt: list[int], response: list[int], logprobs: list[float], group: int, outcome: float
) -> Rollout:
    labeled = not math.isnan(outcome)
    question = f"q{group}"
    return Rollout(question, prompt, response, logprobs, group, "stop", labeled, outcome)
