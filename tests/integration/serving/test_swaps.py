"""Promotions under load: no request fails, no old version answers, no answer is of two versions."""

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
from answers import Answer, chat, completion
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tempo_lab.tasks import countdown
from tempo_storage.adapters import version_name, version_of

pytestmark = [pytest.mark.vllm, pytest.mark.service]

CLIENTS = 16
PROMOTIONS = 20
REQUESTS = 1000
TOKENS = 96
NATS = 5.0
QUESTIONS = [puzzle.question for puzzle in countdown.puzzles()[::200]]
SEEDS = (31, 32)  # of two adapters that have little in common; the versions take turns
KINDS = tuple(itertools.product((chat, completion), (False, True)))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the newest version that was promoted before it, and its answer."""

    question: str
    promoted_before: int
    answer: Answer

    @property
    def version(self) -> int:
        return version_of(self.answer.adapter)


@pytest.fixture(scope="module")
def requests(server: Any, make_version: Callable[..., int]) -> Iterator[list[Asked]]:
    """All requests of clients who asked while version after version was promoted."""
    newest = make_version(seed=SEEDS[0], scale=1.5)
    server.promote(newest)
    done = threading.Event()
    sent: list[int] = []  # the client of each request that was answered
    all_tokens = {"ignore_eos": True, "skip_special_tokens": False}

    def client(number: int) -> list[Asked]:
        draw = random.Random(number)
        own = []
        kinds = itertools.cycle(KINDS)
        while not done.is_set():
            ask, stream = next(kinds)
            question = draw.choice(QUESTIONS)
            before = newest
            answer = ask(
                server,
                question,
                stream=stream,
                max_tokens=TOKENS,
                temperature=0.5,
                extra_body=all_tokens,
            )
            own.append(Asked(question, before, answer))
            sent.append(number)
        return own

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        for number in range(PROMOTIONS):
            version = make_version(seed=SEEDS[(number + 1) % 2], scale=1.5)
            server.promote(version)
            newest = version
        while len(sent) < REQUESTS and not any(c.done() for c in clients):
            done.wait(0.1)
        done.set()
        yield [request for each in clients for request in each.result(timeout=60)]
    server.serve_base()


def test_no_request_fails_and_each_answer_is_whole(requests: list[Asked]) -> None:
    answers = [request.answer for request in requests]
    assert len(answers) >= REQUESTS  # a request that failed would have raised
    assert {a.finish_reason for a in answers} == {"length"}
    assert all(a.models == {a.adapter} for a in answers)
    assert len({a.adapter for a in answers}) > PROMOTIONS // 2


def test_no_answer_is_by_a_version_older_than_the_one_promoted_before_the_request(
    requests: list[Asked],
) -> None:
    assert [r for r in requests if r.version < r.promoted_before] == []


def test_each_text_is_far_likelier_under_the_version_that_it_names(
    server: Any, requests: list[Asked], tiny_base: Path
) -> None:
    versions = sorted({request.version for request in requests})
    first = versions[0]
    likelihoods = [
        log_likelihoods(server, tiny_base, version_name(first + i), requests) for i in (0, 1)
    ]
    own = torch.tensor([(request.version - first) % 2 for request in requests])
    table = torch.stack(likelihoods, 1)  # (requests, 2)
    gap = table.gather(1, own[:, None])[:, 0] - table.gather(1, 1 - own[:, None])[:, 0]
    print(f"{len(requests)} answers by {len(versions)} versions; least gap {gap.min():.1f} nats")
    assert gap.min() >= NATS


def log_likelihoods(server: Any, base: Path, name: str, requests: Sequence[Asked]) -> torch.Tensor:
    """Return log π(text | question) of each answer under a version, by transformers and PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    policy = PeftModel.from_pretrained(model, str(server.store.path(name)))
    sums = []
    for request in requests:
        prompt = tokenizer(f"<bos> {request.question}", add_special_tokens=False).input_ids
        text = tokenizer(request.answer.text, add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + text])
        with torch.no_grad():
            table = policy(input_ids=ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
        sums.append(table.gather(1, torch.tensor(text)[:, None]).sum())
    return torch.stack(sums)
