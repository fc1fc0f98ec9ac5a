"""Small base models: a Qwen3 that attempts a task, and closes a response with a verdict on it.

It is trained from nothing in a few minutes, on 40 % honest random attempts and 60 % solutions. It
then follows the form, mostly calculates right, and solves about three questions of ten: that leaves
room to learn, and gives a signal to learn from. The closing verdict lets a critic read the quality
of a response. The bare form of a task has no verdict, so a critic must find the quality itself.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tempo_lab.tasks.countdown import COUNTDOWN
from tempo_lab.tasks.task import Task

CACHE = Path("~/.cache/vllm-tempo").expanduser()
SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(len(SPECIAL))
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps and the loss in nats a token."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights. Its hash names the directory in the cache."""

    seed: int = 0
    version: int = 2
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
        """Every token, in the order of the ids."""
        return (*SPECIAL, *self.task.words)

    @property
    def digest(self) -> str:
        """A short hash of the recipe and the vocabulary."""
        numbers = {name: value for name, value in asdict(self).items() if name != "task"}
        text = json.dumps([numbers, self.vocabulary, CHAT_TEMPLATE], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a warm-up, then a cosine down to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def build_base(
    directory: Path,
    progress: Progress = lambda *_: None,
    *,
    recipe: Recipe | None = None,
    threads: int = 2,
) -> Path:
    """Return the base model's directory below `directory`; train the model if it is not there."""
    recipe = recipe or Recipe()
    final = base_directory(directory, recipe)
    if final.is_dir():
        return final
    aside = directory / f".{final.name}.{os.getpid()}"
    aside.mkdir(parents=True)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train(recipe, progress).save_pretrained(aside)
        fast_tokenizer(recipe.vocabulary).save_pretrained(aside)
        aside.rename(final)
    except OSError:
        if not final.is_dir():  # else another process has built the same one meanwhile
            raise
    finally:
        torch.set_num_threads(threads_before)
        shutil.rmtree(aside, ignore_errors=True)
    return final


def base_directory(directory: Path, recipe: Recipe) -> Path:
    """Return the directory of a recipe's model, which may not be there."""
    return directory / f"{recipe.task.name}-{recipe.digest}"


def fast_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token per word, and words are joined by one space."""
    words = {word: index for index, word in enumerate(vocabulary)}
    # A word outside the vocabulary must not be an error in a server: it becomes padding.
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
    """Train from nothing by next-word prediction on the responses. The seed decides the data."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_config(recipe))
    optimiser = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    prompt_length = _tables(recipe.task)[0].shape[1]
    for step, tokens in enumerate(_batches(recipe)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = _loss(model, tokens, prompt_length)
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
    """Return the mean negative log-likelihood of the S − `prompt` tokens after the prompt."""
    hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, prompt - 1 :])  # (B, S - prompt, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, prompt:].flatten())


def _batches(recipe: Recipe) -> Iterator[Tensor]:
    """Yield batches (B, S) of questions with a response each, by table look-up."""
    generator = np.random.default_rng(recipe.seed)
    questions, attempts, solutions = _tables(recipe.task)
    for _ in range(recipe.steps):
        rows = generator.integers(len(questions), size=recipe.batch)
        is_attempt = generator.random(recipe.batch) < recipe.attempts
        uniform = generator.random(recipe.batch)
        responses = np.where(
            is_attempt[:, None], attempts.draw(rows, uniform), solutions.draw(rows, uniform)
        )
        yield torch.from_numpy(np.concatenate([questions[rows], responses], axis=1))


class _Responses:
    """A table of the possible responses to every question."""

    def __init__(self, responses: list[list[str]], words: Sequence[str]) -> None:
        self.counts = np.array([len(texts) for texts in responses])
        self.starts = np.cumsum(self.counts) - self.counts
        texts = [f"{text} {SPECIAL[EOS]}" for texts in responses for text in texts]
        self.tokens = _encode(texts, words)

    def draw(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Return one response for each question in `rows`; `uniform` is random in [0, 1)."""
        chosen = self.starts[rows] + (uniform * self.counts[rows]).astype(np.int64)
        tokens: np.ndarray = self.tokens[chosen]
        return tokens


@cache
def _tables(task: Task) -> tuple[np.ndarray, _Responses, _Responses]:
    """Return every question (N, prompt), its honest attempts and its solutions, as token ids."""
    words = (*SPECIAL, *task.words)
    questions, attempts, solutions = zip(*task.exercises(), strict=True)
    prompts = _encode([f"{SPECIAL[BOS]} {question}" for question in questions], words)
    return prompts, _Responses(list(attempts), words), _Responses(list(solutions), words)


def _encode(texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
    ids = {word: index for index, word in enumerate(words)}
    return np.array([[ids[word] for word in text.split()] for text in texts], dtype=np.int64)
