"""One seed of a study, sampled in the process and by vLLM: the same questions and objective."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import labeled_row

from tempo_lab.tasks import countdown

pytestmark = [pytest.mark.service, pytest.mark.vllm]

ITERATIONS, SAMPLES = 3, 16
SPLIT = countdown.split(11, labeled=60, unlabeled=48, unseen=0)
SETTINGS = {
    **{"group_size": 4, "labeled_per_step": 8, "unlabeled_per_step": 16, "held_out_per_step": 4},
    **{"warm_up_steps": 1, "warm_up_questions": 8, "max_response_tokens": 16, "device": "cpu"},
    **{"fitness_auroc": 0.0, "fitness_cosine": -1.0, "minimum_advantage_std": 0.0},
    "dtype": "bfloat16",  # vLLM's own
    "policy_learning_rate": 0.01,  # so that three steps leave the base far behind
}


@dataclass
class Made:
    """A run that has ended, and a lab that goes on from its last state as a resumed run does."""

    lines: list[dict[str, Any]]
    lab: Any
    data: Any


@pytest.fixture(scope="module")
def made(
    server: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Made]]:
    """Make the run with each sampler."""
    # Not above: the unit tests import the trainer first, with its shapes checked.
    from tempo_lab.study.lab import Spec

    torch.set_num_threads(1)
    folder, files = tmp_path_factory.mktemp("study"), {}
    for name, puzzles in (("labeled", SPLIT.labeled), ("unlabeled", SPLIT.unlabeled)):
        files[name] = str(folder / f"{name}.jsonl")
        rows = [json.dumps(labeled_row(puzzle)) + "\n" for puzzle in puzzles]
        Path(files[name]).write_text("".join(rows))
    own = {"model": str(tiny_base), "settings": SETTINGS, "samples": SAMPLES}
    own |= {"iterations": ITERATIONS, "measure_every": ITERATIONS}
    spec = Spec(method="tempo", seed=5, **own, **files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPO_BASE_URL", server.base_url)
        patch.setenv("TEMPO_DATA_DIR", str(server.data_dir))
        found = {s: make(replace(spec, name=s, sampler=s), folder) for s in ("local", "vllm")}
    yield found
    for one in found.values():
        one.lab.close()


def make(spec: Any, folder: Path) -> Made:
    from tempo_lab.study.lab import Lab
    from tempo_lab.study.questions import Data
    from tempo_lab.study.run import run
    from tempo_trainer.learning import checkpoint

    lines = [json.loads(text) for text in run(spec, folder).read_text().splitlines()]
    data = Data.load(spec.labeled, spec.unlabeled)
    lab = Lab(spec, data, None)
    lab.restore(checkpoint.load(folder / "state" / spec.stem, str(ITERATIONS)))
    return Made(lines, lab, data)


def test_both_samplers_are_given_the_same_token_ids(made: dict[str, Made]) -> None:
    ours, vllm = made["local"], made["vllm"]
    questions = [q for s in (ours.data.train, ours.data.unlabeled) for q in s.questions]
    for q in questions:
        prompt = vllm.lab.sampler.prompt(q.id, q.messages)
        assert prompt == ours.lab.sampler.prompt(q.id, q.messages)
        assert len(prompt.ids) > 3


def test_both_sample_as_much_and_begin_with_a_policy_as_often_right(made: dict[str, Made]) -> None:
    sampled = {s: [line["sampled"] for line in one.lines] for s, one in made.items()}
    assert sampled["local"] == sampled["vllm"]
    assert len(sampled["vllm"]) == ITERATIONS + 1
    assert not any("refusal" in line for one in made.values() for line in one.lines)
    first = {s: one.lines[0]["adapted"]["avg"] for s, one in made.items()}
    right = {s: sum(shares) / len(shares) for s, shares in first.items()}
    p = sum(right.values()) / 2
    spread = math.sqrt(2 * p * (1 - p) / (SAMPLES * len(SPLIT.unlabeled)))
    print(f"right at first: {right}, spread {spread:.4f}")
    assert p > 0.1
    assert abs(right["local"] - right["vllm"]) < 4 * spread


def test_responses_to_different_questions_are_different_draws(made: dict[str, Made]) -> None:
    sampler, question = made["vllm"].lab.sampler, SPLIT.unlabeled[0].question
    prompt = sampler.prompt("q", [{"role": "user", "content": question}])
    texts = [[s.text for s in group] for group in sampler.sample([prompt] * 8, n=64, seed=0)]
    first, second, *_, other_request = texts

    def alike(ones: list[str], others: list[str]) -> float:
        return sum(a == b for a, b in zip(ones, others, strict=True)) / len(ones)

    by_chance = alike(first[1:], first[:-1])
    # Each was 1.0 with a seed in the request: vLLM counts it up from response to response.
    assert alike(first, second) < by_chance + 0.35
    assert alike(first[1:], other_request[:-1]) < by_chance + 0.35


@pytest.mark.parametrize("sampler", ["local", "vllm"])
def test_samples_are_of_the_policy_as_it_has_become(made: dict[str, Made], sampler: str) -> None:
    lab, data = made[sampler].lab, made[sampler].data
    batch = lab.batch(lab.respond(data.unlabeled.questions, 4, seed=1))
    with torch.no_grad():
        own, base = lab.networks.policy.logprobs(batch), lab.networks.base_logprobs(batch)
    of_policy, of_base = (
        float(((batch.sampled_logprobs - at).abs() * batch.mask).sum() / batch.mask.sum())
        for at in (own, base)
    )
    print(f"{sampler}: {of_policy:.4f} nats from the policy, {of_base:.4f} from the base")
    assert of_policy < 0.02
    assert of_base > 0.2
    # Every iteration's rollouts were the policy's of that iteration, too.
    assert all(abs(line["m_step/sampler_kl"]) < 0.02 for line in made[sampler].lines[1:])
