"""Small base models: a Qwen3 that attempts a task, countdown first, and judges itself honestly.

It is trained from nothing in a few minutes, on 40 % honest random attempts and 60 % solutions, so
that it follows the form, mostly calculates right, and reaches the target in about three answers of
ten: room to learn, and a signal to learn from. The honest verdict that closes each response is what
lets a critic read a response's quality instead of memorising questions.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tempo_lab.tasks.countdown import COUNTDOWN
from tempo_lab.tasks.task import Task

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(len(SPECIAL))
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps and the loss in nats a token."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights; its hash names the cached directory."""

    seed: int = 0
    version: int = 1
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    intermediate: int = 384
    steps: int = 2000
    batch: int = 128
    learning_rate: float = 3e-3
    warmup: int = 50
    attempts: float = 0.4
    task: Task = COUNTDOWN

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Return every token, in the order of the ids."""
        return (*SPECIAL, *self.task.words)

    @property
    def digest(self) -> str:
        """Return a short hash of the recipe and the vocabulary."""
        numbers = {name: value for name, value in asdict(self).items() if name != "task"}
        text = json.dumps([numbers, self.vocabulary, CHAT_TEMPLATE], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: warm up, then fall along a cosine to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def build_base(
    directory: Path,
    progress: Progress = lambda *_: None,
    *,
    recipe: Recipe | None = None,
    threads: int = 2,
) -> Path:
    """Return the base model's directory below `directory`, training it first if it is not there."""
    recipe = recipe or Recipe()
    final = directory / f"{recipe.task.name}-{recipe.digest}"
    if final.is_dir():
        return final
    aside = directory / f".{final.name}.{os.getpid()}"
    aside.mkdir(parents=True)
    try:
        with _threads(threads):
            train(recipe, progress).save_pretrained(aside)
        fast_tokenizer(recipe.vocabulary).save_pretrained(aside)
        _publish(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def fast_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: one token a word, words joined by one space when decoded."""
    words = {word: index for index, word in enumerate(vocabulary)}
    # A word outside the vocabulary must not be an error in a server: it reads as padding.
    inner = Tokenizer(models.WordLevel(words, unk_token=SPECIAL[PAD]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def train(recipe: Recipe, progress: Progress) -> Qwen3ForCausalLM:
    """Train from nothing by next-word prediction on the responses; the same seed, the same data."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_config(recipe))
    optimiser = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    prompt = _tables(recipe.task).questions.shape[1]
    for step, tokens in enumerate(_batches(recipe)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = _loss(model, tokens, prompt)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        progress(step + 1, recipe.steps, loss.item())
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, temperature=1.0, top_p=1.0
    )
    return model


def _config(recipe: Recipe) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(recipe.vocabulary),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        dtype="float32",
    )


def _loss(model: Qwen3ForCausalLM, tokens: Tensor, prompt: int) -> Tensor:
    """Return the mean negative log-likelihood of what follows the first `prompt` of S tokens."""
    hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, prompt - 1 :])  # (B, S - prompt, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, prompt:].flatten())


def _batches(recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches (B, S) of a question and a response, by table look-up."""
    generator = np.random.default_rng(recipe.seed)
    questions, attempts, solutions = _tables(recipe.task)
    for _ in range(recipe.steps):
        rows = generator.integers(len(questions), size=recipe.batch)
        honest = generator.random(recipe.batch) < recipe.attempts
        draws = generator.random(recipe.batch)
        responses = np.where(
            honest[:, None], attempts.draw(rows, draws), solutions.draw(rows, draws)
        )
        yield torch.from_numpy(np.concatenate([questions[rows], responses], axis=1))


class _Responses:
    """The possible responses to every question in one table, drawn by question."""

    def __init__(self, responses: list[list[str]], words: Sequence[str]) -> None:
        self.counts = np.array([len(texts) for texts in responses])
        self.starts = np.cumsum(self.counts) - self.counts
        texts = [f"{text} {SPECIAL[EOS]}" for texts in responses for text in texts]
        self.tokens = _encode(texts, words)

    def draw(self, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return one response for each question in `rows`; `draws` are uniform in [0, 1)."""
        chosen = self.starts[rows] + (draws * self.counts[rows]).astype(np.int64)
        found: np.ndarray = self.tokens[chosen]
        return found


class _Tables(NamedTuple):
    questions: np.ndarray
    attempts: _Responses
    solutions: _Responses


@cache
def _tables(task: Task) -> _Tables:
    """Return every question (N, prompt), its honest attempts and its solutions, as token ids."""
    words = (*SPECIAL, *task.words)
    questions, attempts, solutions = zip(*task.exercises(), strict=True)
    return _Tables(
        _encode([f"{SPECIAL[BOS]} {question}" for question in questions], words),
        _Responses(list(attempts), words),
        _Responses(list(solutions), words),
    )


def _encode(texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
    ids = {word: index for index, word in enumerate(words)}
    return np.array([[ids[word] for word in text.split()] for text in texts], dtype=np.int64)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _publish(aside: Path, final: Path) -> None:
    """Rename a finished directory into place; whoever built the same one first wins."""
    try:
        aside.rename(final)
    except OSError:
        if not final.is_dir():
            raise
