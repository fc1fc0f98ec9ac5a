"""Sample responses in this process, from the policy that is being trained: no server, no copy.

Prompts of one length are one batch: the prompt is computed once, its keys and values are repeated
for each response, and nothing is padded. A row that has ended goes on until its batch has ended,
which costs little where responses are short; long ones belong to vLLM.
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

ROWS_AT_ONCE = 1024


class LocalSampler:
    """The policy with its adapter at temperature 1; log-probabilities are the sampler's own."""

    def __init__(self, networks: Networks, model_dir: str, *, max_tokens: int) -> None:
        self._networks, self._max_tokens = networks, max_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        ends = GenerationConfig.from_pretrained(model_dir).eos_token_id
        self._ends: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else (ends,)

    def close(self) -> None:
        """Nothing is held open."""

    def prompt(self, question_id: str, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Render a question with the model's chat template."""
        ids = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True)
        return Prompt(question_id, tuple(ids["input_ids"]))

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Sample]]:
        """Return `n` responses to each prompt; the same prompts and seed give the same ones."""
        generator = torch.Generator(self._networks.device).manual_seed(seed)
        found: dict[int, list[Sample]] = {}
        with self._networks.active(POLICY):
            for rows in _equal_lengths(prompts, max(1, ROWS_AT_ONCE // n)):
                ids = torch.tensor([prompts[row].ids for row in rows])
                drawn = iter(self._samples(*self._decode(ids, n, generator)))
                found |= {row: [next(drawn) for _ in range(n)] for row in rows}
        return [found[row] for row in range(len(prompts))]

    def _decode(self, ids: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens (Q·n, T) and their log-probabilities; what follows an end is noise."""
        cache: Any = DynamicCache()
        after = self._networks.next_logprobs(ids, cache, POLICY)  # (Q, V)
        cache.batch_repeat_interleave(n)
        after = after.repeat_interleave(n, dim=0)  # (Q·n, V)
        ends = torch.tensor(self._ends, device=after.device)
        ended = torch.zeros(len(after), dtype=torch.bool, device=after.device)
        tokens, logprobs = [], []
        while True:
            token = torch.multinomial(after.exp(), 1, generator=generator)  # (Q·n, 1)
            tokens.append(token)
            logprobs.append(after.gather(1, token))
            ended |= torch.isin(token[:, 0], ends)
            if len(tokens) == self._max_tokens or bool(ended.all()):
                return torch.cat(tokens, 1), torch.cat(logprobs, 1)
            after = self._networks.next_logprobs(token, cache, POLICY)

    def _samples(self, tokens: Tensor, logprobs: Tensor) -> list[Sample]:
        """Cut each row after its first end of sequence, which belongs to the response."""
        cut = [self._until_end(row) for row in tokens.tolist()]
        texts = self._tokenizer.batch_decode(cut, skip_special_tokens=True)
        return [
            Sample(tuple(ids), tuple(row[: len(ids)]), text, self._finish_reason(ids[-1]))
            for ids, row, text in zip(cut, logprobs.tolist(), texts, strict=True)
        ]

    def _until_end(self, ids: list[int]) -> list[int]:
        first = next((i for i, token in enumerate(ids) if token in self._ends), len(ids) - 1)
        return ids[: first + 1]

    def _finish_reason(self, last: int) -> str:
        return "stop" if last in self._ends else "length"


def seed_of(*parts: object) -> int:
    """Return a seed that depends on the parts alone, so that a resumed run draws the same."""
    return random.Random(":".join(map(str, parts))).getrandbits(62)


def _equal_lengths(prompts: Sequence[Prompt], at_once: int) -> Iterator[list[int]]:
    """Yield the rows of prompts that have one length, at most `at_once` together."""
    lengths = [len(prompt.ids) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    for _, same in groupby(order, key=lengths.__getitem__):
        rows = list(same)
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]
