"""Sample responses in this process from the policy that is being trained: no server, no copy.

Prompts of one length are one batch. Each prompt is computed once; its keys and values are repeated
for each response, and nothing is padded. A row that has ended goes on until its batch has ended,
which costs little if responses are short. Long ones belong to vLLM.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, GenerationConfig

from tempo_trainer.algorithm.networks import POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.settings import TrainerSettings

MAX_ROWS = 1024  # of a batch


class LocalSampler:
    """The policy with its adapter at temperature 1; log-probabilities are the sampler's own."""

    def __init__(self, networks: Networks, model_dir: str, settings: TrainerSettings) -> None:
        self._networks = networks
        self._max_tokens = settings.max_response_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        ends = GenerationConfig.from_pretrained(model_dir).eos_token_id
        self._ends: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else (ends,)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def prompt(self, question_id: str, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Render a question with the model's chat template."""
        ids = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True)
        return Prompt(question_id, tuple(ids["input_ids"]))

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Sample]]:
        """Return `n` responses to each prompt; the same prompts and seed give the same ones."""
        generator = torch.Generator(self._networks.device).manual_seed(seed)
        groups: dict[int, list[Sample]] = {}
        with self._networks.active(POLICY):
            for rows in _equal_lengths(prompts, max(1, MAX_ROWS // n)):
                ids = torch.tensor([prompts[row].ids for row in rows])
                samples = self._samples(*self._decode(ids, n, generator))
                groups |= {row: samples[i * n : (i + 1) * n] for i, row in enumerate(rows)}
        return [groups[row] for row in range(len(prompts))]

    def _decode(self, ids: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens (Q·n, T) and their log-probabilities; after a row's end they are noise."""
        cache: Any = DynamicCache()
        log_p = self._networks.next_logprobs(ids, cache, POLICY)  # (Q, V)
        cache.batch_repeat_interleave(n)
        log_p = log_p.repeat_interleave(n, dim=0)  # (Q·n, V)
        ends = torch.tensor(self._ends, device=log_p.device)
        has_ended = torch.zeros(len(log_p), dtype=torch.bool, device=log_p.device)
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        while True:
            token = torch.multinomial(log_p.exp(), 1, generator=generator)  # (Q·n, 1)
            tokens.append(token)
            logprobs.append(log_p.gather(1, token))
            has_ended |= torch.isin(token[:, 0], ends)
            if len(tokens) == self._max_tokens or bool(has_ended.all()):
                return torch.cat(tokens, 1), torch.cat(logprobs, 1)
            log_p = self._networks.next_logprobs(token, cache, POLICY)

    def _samples(self, tokens: Tensor, logprobs: Tensor) -> list[Sample]:
        """Cut each row after its first end of sequence, which belongs to the response."""
        responses = [self._until_end(row) for row in tokens.tolist()]
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        return [
            Sample(tuple(ids), tuple(row[: len(ids)]), text, self._finish_reason(ids[-1]))
            for ids, row, text in zip(responses, logprobs.tolist(), texts, strict=True)
        ]

    def _until_end(self, ids: list[int]) -> list[int]:
        first = next((i for i, token in enumerate(ids) if token in self._ends), len(ids) - 1)
        return ids[: first + 1]

    def _finish_reason(self, last: int) -> str:
        return "stop" if last in self._ends else "length"


def seed_of(*parts: object) -> int:
    """Return a seed that depends only on the parts, so that a resumed run draws the same."""
    return random.Random(":".join(map(str, parts))).getrandbits(62)


def _equal_lengths(prompts: Sequence[Prompt], max_count: int) -> Iterator[list[int]]:
    """Yield the rows of prompts that have one length, at most `max_count` together."""
    lengths = [len(prompt.ids) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    for _, equals in groupby(order, key=lengths.__getitem__):
        rows = list(equals)
        for start in range(0, len(rows), max_count):
            yield rows[start : start + max_count]
