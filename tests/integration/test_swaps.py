"""Promotions under load: no request fails, none is answered by an old version, or by two."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_name, version_of

pytestmark = [pytest.mark.vllm, pytest.mark.service]

CLIENTS, PROMOTIONS, REQUESTS, TOKENS = 16, 20, 1000, 96
NATS = 5.0
QUESTIONS = [puzzle.question for puzzle in countdown.puzzles()[::200]]
SEEDS = (31, 32)  # of two adapters that have little in common; the versions take turns


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw of one request."""

    question: str
    promoted_before: int
    adapter: str
    models: frozenset[str]
    finish_reason: str | None
    text: str


def ask(server: Any, question: str, kind: str, promoted_before: int) -> Answer:
    """Ask by chat or by completion, streamed or not."""
    route, _, how = kind.partition(" ")
    all_tokens = {"ignore_eos": True, "skip_special_tokens": False}
    options = {"model": "tempo", "max_tokens": TOKENS, "temperature": 0.5, "extra_body": all_tokens}
    if route == "chat":
        api = server.client.chat.completions
        options["messages"] = [{"role": "user", "content": question}]
    else:
        api, options["prompt"] = server.client.completions, f"<bos> {question}"
    if how:
        with api.with_streaming_response.create(stream=True, **options) as raw:
            parts, adapter = list(raw.parse()), raw.headers["x-tempo-adapter"]
    else:
        raw = api.with_raw_response.create(**options)
        parts, adapter = [raw.parse()], raw.headers["x-tempo-adapter"]
    choices = [choice for part in parts for choice in part.choices]
    return Answer(
        question,
        promoted_before,
        adapter,
        frozenset(part.model for part in parts),
        next((c.finish_reason for c in choices if c.finish_reason), None),
        "".join(map(said, choices)),
    )


def said(choice: Any) -> str:
    for holder in ("delta", "message"):
        if hasattr(choice, holder):
            return getattr(choice, holder).content or ""
    return str(choice.text)


@pytest.fixture(scope="module")
def answers(server: Any, make_version: Callable[..., int]) -> Iterator[list[Answer]]:
    """All answers to clients who asked while version after version was promoted."""
    served = make_version(seed=SEEDS[0], scale=1.5)
    server.promote(served)
    newest, done, asked = served, threading.Event(), []

    def client(number: int) -> list[Answer]:
        draw, seen = random.Random(number), []
        kinds = itertools.cycle(["chat", "chat stream", "completion", "completion stream"])
        while not done.is_set():
            seen.append(ask(server, draw.choice(QUESTIONS), next(kinds), newest))
            asked.append(number)
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        for number in range(PROMOTIONS):
            version = make_version(seed=SEEDS[(number + 1) % 2], scale=1.5)
            server.promote(version)
            newest = version
        while len(asked) < REQUESTS and not any(c.done() for c in clients):
            done.wait(0.1)
        done.set()
        yield [answer for each in clients for answer in each.result(timeout=60)]
    server.serve_base()


def test_no_request_fails_and_each_is_whole(answers: list[Answer]) -> None:
    assert len(answers) >= REQUESTS  # a failed one would have raised
    assert {a.finish_reason for a in answers} == {"length"}
    assert all(a.models == {a.adapter} for a in answers)
    assert len({a.adapter for a in answers}) > PROMOTIONS // 2


def test_nobody_is_answered_by_a_version_older_than_the_one_promoted_before_asking(
    answers: list[Answer],
) -> None:
    assert [a for a in answers if version_of(a.adapter) < a.promoted_before] == []


def test_each_text_is_far_likelier_under_the_version_that_it_names(
    server: Any, answers: list[Answer], tiny_base: Path
) -> None:
    names = sorted({a.adapter for a in answers}, key=version_of)
    first = version_of(names[0])
    likelihoods = [loglik(server, tiny_base, version_name(first + i), answers) for i in (0, 1)]
    own = torch.tensor([(version_of(a.adapter) - first) % 2 for a in answers])
    table = torch.stack(likelihoods, 1)  # (answers, 2)
    gap = table.gather(1, own[:, None])[:, 0] - table.gather(1, 1 - own[:, None])[:, 0]
    print(f"{len(answers)} answers by {len(names)} versions; least gap {gap.min():.1f} nats")
    assert gap.min() >= NATS


def loglik(server: Any, base: Path, name: str, answers: Sequence[Answer]) -> torch.Tensor:
    """Return log π(text | question) of each answer under a version, by transformers and PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    policy = PeftModel.from_pretrained(model, str(server.store.path(name)))
    found = []
    for answer in answers:
        prompt = tokenizer(f"<bos> {answer.question}", add_special_tokens=False).input_ids
        text = tokenizer(answer.text, add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + text])
        with torch.no_grad():
            table = policy(input_ids=ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
        found.append(table.gather(1, torch.tensor(text)[:, None]).sum())
    return torch.stack(found)
