"""Sample responses in this process from the policy that is being trained: no server, no copy.

Prompts of one length are one batch. Each prompt is computed once; its keys and values are repeated
for each response, and nothing is padded. A row that has ended goes on until its batch has ended,
which costs little if responses are short. Long ones belong to vLLM.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, GenerationConfig

from tempo_lab.study.questions import Question
from tempo_storage.decoding import PLAIN, Decoding
from tempo_trainer.algorithm.networks import POLICY, Networks
from tempo_trainer.sampling.sampler import Prompt, Sample
from tempo_trainer.settings import TrainerSettings

MAX_ROWS = 1024  # of a batch


class LocalSampler:
    """The policy with its adapter.

    Log-probabilities are those of the policy itself, before temperature, top_k and top_p, as vLLM
    reports them.
    """

    def __init__(self, networks: Networks, model_dir: str, settings: TrainerSettings) -> None:
        self._networks = networks
        self._max_tokens = settings.max_response_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self._ends = _ends(model_dir)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def prompt(self, question: Question) -> Prompt:
        """Render a question with the model's chat template."""
        ids = self._tokenizer.apply_chat_template(
            list(question.messages), add_generation_prompt=True, **question.chat_template_kwargs
        )
        return Prompt(question.id, tuple(ids["input_ids"]))

    def sample(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, decoding: Decoding = PLAIN
    ) -> list[list[Sample]]:
        """Return `n` responses to each prompt; the same arguments give the same responses."""
        generator = torch.Generator(self._networks.device).manual_seed(seed)
        groups: dict[int, list[Sample]] = {}
        with self._networks.active(POLICY):
            for rows in _equal_lengths(prompts, max(1, MAX_ROWS // n)):
                ids = torch.tensor([prompts[row].ids for row in rows])
                samples = self._samples(*self._decode(ids, n, decoding, generator))
                groups |= {row: samples[i * n : (i + 1) * n] for i, row in enumerate(rows)}
        return [groups[row] for row in range(len(prompts))]

    def _decode(
        self, ids: Tensor, n: int, decoding: Decoding, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
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
            token = next_token(log_p, decoding, generator)  # (Q·n, 1)
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


def next_token(log_p: Tensor, decoding: Decoding, generator: torch.Generator) -> Tensor:
    """Draw a token for each row of `log_p` (B, V), in vLLM's order; return (B, 1).

    The temperature comes first, then top_k, then top_p.
    """
    if decoding.is_greedy:
        return log_p.argmax(1, keepdim=True)
    if decoding.temperature != 1.0:
        log_p = (log_p / decoding.temperature).log_softmax(1)
    if 0 < decoding.top_k < log_p.shape[1]:
        smallest = log_p.topk(decoding.top_k).values[:, -1:]  # (B, 1)
        log_p = log_p.masked_fill(log_p < smallest, -math.inf).log_softmax(1)
    if decoding.top_p < 1.0:
        ordered, order = log_p.exp().sort(descending=True)  # (B, V)
        # A token is left out if the more probable ones reach top_p without it.
        is_beyond = ordered.cumsum(1) - ordered >= decoding.top_p
        log_p = log_p.masked_fill(is_beyond.scatter(1, order, is_beyond), -math.inf)
    return torch.multinomial(log_p.exp(), 1, generator=generator)


def users_decoding(model_dir: str, temperature: float | None, top_p: float | None) -> Decoding:
    """Return how the users of a model draw tokens.

    An argument that is None counts as what the model's generation_config.json says, or as 1.
    """
    path = Path(model_dir) / "generation_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return Decoding(
        _first(temperature, config.get("temperature"), 1.0),
        _first(top_p, config.get("top_p"), 1.0),
        max(0, config.get("top_k") or 0),
    )


def _first(*values: float | None) -> float:
    """Return the first value that is not None."""
    return float(next(value for value in values if value is not None))


def seed_of(*parts: object) -> int:
    """Return a seed that depends only on the parts, so that a resumed run draws the same."""
    return random.Random(":".join(map(str, parts))).getrandbits(62)


def reference_sample(model_dir: str, text: str) -> Sample:
    """Return a text as if it were a response, closed by the model's end of sequence."""
    tokenizer = _tokenizer(model_dir)
    ends = _ends(model_dir)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], end]
    return Sample(tuple(ids), (0.0,) * len(ids), text, "stop")


@cache
def _tokenizer(model_dir: str) -> Any:
    return AutoTokenizer.from_pretrained(model_dir)


@cache
def _ends(model_dir: str) -> tuple[int, ...]:
    """Return the tokens that end a response."""
    ends = GenerationConfig.from_pretrained(model_dir).eos_token_id
    return tuple(ends) if isinstance(ends, list) else (ends,)


def _equal_lengths(prompts: Sequence[Prompt], max_count: int) -> Iterator[list[int]]:
    """Yield the rows of prompts that have one length, at most `max_count` together."""
    lengths = [len(prompt.ids) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    for _, equals in groupby(order, key=lengths.__getitem__):
        rows = list(equals)
        for start in range(0, len(rows), max_count):
            yield rows[start : start + max_count]
