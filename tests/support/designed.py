"""A base model and adapters whose answers are designed: each question has a known distribution.

A question is `riddle 17`; its answer is one word. Questions whose numbers have the same rest have
the same answers, which is easy to learn. The words' shares are trained, so a test knows how often
each version is right, and whether its most common answer is the right one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from tempo_lab.tasks.base import BOS, EOS, PAD, SPECIAL, fast_tokenizer

COUNT = 400
NUMBERS = [str(number) for number in range(COUNT)]
KINDS = 8
WRONG = 5  # wrong answers of a question
ANSWERS = [f"word{number}" for number in range(KINDS * (1 + WRONG))]
VOCABULARY = (*SPECIAL, "riddle", *NUMBERS, *ANSWERS)
IDS = {word: index for index, word in enumerate(VOCABULARY)}
BASE_STEPS = 150
ADAPTER_STEPS = 200
WARM_UP = 20
RATE = 1e-2


@dataclass(frozen=True)
class Question:
    """A question, its right answer, and its wrong ones."""

    text: str
    right: str
    wrong: Sequence[str]


def questions() -> list[Question]:
    """Return COUNT different questions."""
    rows = []
    for number in range(COUNT):
        first = number % KINDS * (1 + WRONG)
        right, *wrong = ANSWERS[first : first + 1 + WRONG]
        rows.append(Question(f"riddle {number}", right, wrong))
    return rows


def shares(right: float, first_wrong: float) -> Mapping[str, float]:
    """Return the shares of the right answer and of one wrong one; the others have the rest."""
    return {"right": right, "first": first_wrong, "others": (1 - right - first_wrong) / (WRONG - 1)}


def write_base(directory: Path, every: Sequence[Question], wanted: Mapping[str, float]) -> Path:
    """Train a small model from nothing to these shares, and write it with its tokenizer."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.1,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    _train(model, every, wanted, steps=BASE_STEPS)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(directory)
    fast_tokenizer(VOCABULARY).save_pretrained(directory)
    return directory


def write_adapter(
    directory: Path, base: Path, every: Sequence[Question], wanted: Mapping[str, float]
) -> None:
    """Train an adapter of the base to these shares, and write PEFT's two files."""
    torch.manual_seed(1)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=16, lora_alpha=32, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    _train(model, every, wanted, steps=ADAPTER_STEPS)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)


def _train(
    model: torch.nn.Module, every: Sequence[Question], wanted: Mapping[str, float], *, steps: int
) -> None:
    """Fit the distribution of the answer to `wanted`, and let the text end after it."""
    prompts = torch.tensor([[BOS, *(IDS[word] for word in q.text.split())] for q in every])
    answers = torch.tensor([IDS[word] for word in ANSWERS])
    targets = _targets(every, wanted)  # (Q, V)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        answered = answers[torch.randint(len(answers), (len(prompts), 1))]
        tokens = torch.cat([prompts, answered], 1)
        logprobs = model(input_ids=tokens).logits[:, -2:].log_softmax(-1)  # (Q, 2, V)
        loss = -(targets * logprobs[:, 0]).sum(1).mean() - logprobs[:, 1, EOS].mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _targets(every: Sequence[Question], wanted: Mapping[str, float]) -> Tensor:
    targets = torch.zeros(len(every), len(VOCABULARY))
    for row, question in zip(targets, every, strict=True):
        row[IDS[question.right]] = wanted["right"]
        row[IDS[question.wrong[0]]] = wanted["first"]
        for word in question.wrong[1:]:
            row[IDS[word]] = wanted["others"]
    return targets
