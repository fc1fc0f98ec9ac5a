"""The demonstration's base model: a small Qwen3 that attempts countdown and judges itself honestly.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tempo_trainer.demo import countdown

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(len(SPECIAL))
TOKEN_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
VOCABULARY = (*SPECIAL, *countdown.WORDS)
IDS = {word: index for index, word in enumerate(VOCABULARY)}
QUESTION_TOKENS = 8  # with <bos>
RESPONSE_TOKENS = 14  # with <eos>; every response has the same length, so nothing is padded
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

    @property
    def digest(self) -> str:
        """Return a short hash of the recipe and the vocabulary."""
        text = json.dumps([asdict(self), VOCABULARY, CHAT_TEMPLATE], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: warm up, then fall along a cosine to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def build_base(
    directory: Path, progress: Progress = lambda *_: None, *, recipe: Recipe | None = None
) -> Path:
    """Return the base model's directory below `directory`, training it first if it is not there."""
    recipe = recipe or Recipe()
    final = directory / f"countdown-{recipe.digest}"
    if final.is_dir():
        return final
    aside = directory / f".{final.name}.{os.getpid()}"
    aside.mkdir(parents=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(recipe, progress).save_pretrained(aside)
        fast_tokenizer().save_pretrained(aside)
        if not final.is_dir():  # whoever built the same one first wins
            aside.rename(final)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(aside, ignore_errors=True)
    return final


def fast_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: one token a word, words joined by one space when decoded."""
    # A word outside the vocabulary must not be an error in a server: it reads as padding.
    inner = Tokenizer(models.WordLevel(IDS, unk_token=SPECIAL[PAD]))
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
    for step, tokens in enumerate(_batches(recipe)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = _loss(model, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        progress(step + 1, recipe.steps, loss.item())
    model.generation_config = GenerationConfig(**TOKEN_IDS, temperature=1.0, top_p=1.0)
    return model


def _config(recipe: Recipe) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        **TOKEN_IDS,
        dtype="float32",
    )


def _loss(model: Qwen3ForCausalLM, tokens: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the response tokens; `tokens` is (B, 22)."""
    hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, QUESTION_TOKENS - 1 :])  # (B, 14, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, QUESTION_TOKENS:].flatten())


def _batches(recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches (B, 22) of a question and a response, by table look-up."""
    generator = np.random.default_rng(recipe.seed)
    questions, attempts, solutions = _tables()
    for _ in range(recipe.steps):
        rows = generator.integers(len(questions), size=recipe.batch)
        honest = generator.random(recipe.batch) < recipe.attempts
        draws = generator.random(recipe.batch)
        drawn = attempts.draw(rows, draws), solutions.draw(rows, draws)
        responses = np.where(honest[:, None], *drawn)
        yield torch.from_numpy(np.concatenate([questions[rows], responses], axis=1))


class _Responses:
    """The possible responses of every puzzle in one table, drawn by puzzle."""

    def __init__(self, responses: list[list[str]]) -> None:
        self.counts = np.array([len(texts) for texts in responses])
        self.starts = np.cumsum(self.counts) - self.counts
        self.tokens = _encode([f"{text} {SPECIAL[EOS]}" for texts in responses for text in texts])

    def draw(self, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return one response for each puzzle in `rows`; `draws` are uniform in [0, 1)."""
        chosen = self.starts[rows] + (draws * self.counts[rows]).astype(np.int64)
        found: np.ndarray = self.tokens[chosen]
        return found


@cache
def _tables() -> tuple[np.ndarray, _Responses, _Responses]:
    """Return every puzzle's question (N, 8), its honest attempts and its solutions."""
    puzzles = countdown.puzzles()
    questions = _encode([f"{SPECIAL[BOS]} {puzzle.question}" for puzzle in puzzles])
    attempts = [[d.attempt(p.target) for d in countdown.derivations(p.numbers)] for p in puzzles]
    solutions = [[d.attempt(p.target) for d in countdown.solutions(p)] for p in puzzles]
    return questions, _Responses(attempts), _Responses(solutions)


def _encode(texts: list[str]) -> np.ndarray:
    return np.array([[IDS[word] for word in text.split()] for text in texts], dtype=np.int64)
