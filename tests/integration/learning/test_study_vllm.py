"""One seed of a study, sampled once in its own process and once by vLLM: the two agree."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rounds import labeled_row

from tempo_lab.tasks import countdown

pytestmark = [pytest.mark.service, pytest.mark.vllm]

ITERATIONS = 3
SAMPLES = 16
SAMPLERS = ("local", "vllm")
SPLIT = countdown.split(11, labeled=60, unlabeled=48, unseen=0)
SETTINGS = {
    **{"group_size": 4, "labeled_per_step": 8, "unlabeled_per_step": 16, "held_out_per_step": 4},
    **{"warm_up_steps": 1, "warm_up_questions": 8, "max_response_tokens": 16, "device": "cpu"},
    "minimum_advantage_std": 0.0,
    "dtype": "bfloat16",  # vLLM's own
    "policy_learning_rate": 0.01,  # so that three steps leave the base far behind
}


@dataclass
class Ended:
    """A run that has ended: its lines, and a lab in its last state, as a resumed run has it."""

    lines: list[dict[str, Any]]
    lab: Any
    data: Any


@pytest.fixture(scope="module")
def runs(
    server: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Ended]]:
    """The same run with each sampler."""
    # Not at the top: the unit tests must import the trainer first, with its shapes checked.
    from tempo_lab.study.lab import Spec

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    files = {}
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
        # Three iterations have too few held-out draws to prove anything about a critic.
        patch.setattr("tempo_trainer.algorithm.em.refusal_reason", lambda *_: "")
        ended = {s: run_to_the_end(replace(spec, name=s, sampler=s), folder) for s in SAMPLERS}
    yield ended
    for each in ended.values():
        each.lab.close()


def run_to_the_end(spec: Any, folder: Path) -> Ended:
    from tempo_lab.study.lab import Lab
    from tempo_lab.study.questions import Data
    from tempo_lab.study.run import run
    from tempo_trainer.learning import checkpoint

    lines = [json.loads(text) for text in run(spec, folder).read_text().splitlines()]
    data = Data.load(spec.labeled, spec.unlabeled)
    lab = Lab(spec, data, None)
    lab.restore(checkpoint.load(folder / "state" / spec.stem, str(ITERATIONS)))
    return Ended(lines, lab, data)


def test_both_samplers_get_the_same_token_ids(runs: dict[str, Ended]) -> None:
    local = runs["local"]
    vllm = runs["vllm"]
    questions = [q for s in (local.data.train, local.data.unlabeled) for q in s.questions]
    for q in questions:
        prompt = vllm.lab.sampler.prompt(q)
        assert prompt == local.lab.sampler.prompt(q)
        assert len(prompt.ids) > 3


def test_both_samplers_give_as_many_responses_and_at_first_as_many_right_ones(
    runs: dict[str, Ended],
) -> None:
    sampled = {s: [line["sampled"] for line in ended.lines] for s, ended in runs.items()}
    assert sampled["local"] == sampled["vllm"]
    assert len(sampled["vllm"]) == ITERATIONS + 1
    assert not any("refusal" in line for ended in runs.values() for line in ended.lines)
    first = {s: ended.lines[0]["adapted"]["avg"] for s, ended in runs.items()}
    right = {s: sum(shares) / len(shares) for s, shares in first.items()}
    p = sum(right.values()) / 2
    spread = math.sqrt(2 * p * (1 - p) / (SAMPLES * len(SPLIT.unlabeled)))
    print(f"right at first: {right}, spread {spread:.4f}")
    assert p > 0.1
    assert abs(right["local"] - right["vllm"]) < 4 * spread


def test_vllm_draws_the_responses_to_different_questions_independently(
    runs: dict[str, Ended],
) -> None:
    sampler = runs["vllm"].lab.sampler
    prompt = sampler.prompt(runs["vllm"].data.unlabeled.questions[0])
    texts = [[s.text for s in group] for group in sampler.sample([prompt] * 8, n=64, seed=0)]
    first, second, *_, other_request = texts

    def share_alike(ones: list[str], others: list[str]) -> float:
        return sum(a == b for a, b in zip(ones, others, strict=True)) / len(ones)

    by_chance = share_alike(first[1:], first[:-1])
    # Each was 1.0 with a seed in the request: vLLM counts it up from response to response.
    assert share_alike(first, second) < by_chance + 0.35
    assert share_alike(first[1:], other_request[:-1]) < by_chance + 0.35


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_responses_are_samples_of_the_policy_in_its_present_state(
    runs: dict[str, Ended], sampler: str
) -> None:
    lab = runs[sampler].lab
    batch = lab.batch(lab.sample(runs[sampler].data.unlabeled.questions, 4, seed=1))
    with torch.no_grad():
        policy = lab.networks.policy.logprobs(batch)
        base = lab.networks.base_logprobs(batch)
    to_policy, to_base = (
        float(((batch.sampled_logprobs - at).abs() * batch.mask).sum() / batch.mask.sum())
        for at in (policy, base)
    )
    print(f"{sampler}: {to_policy:.4f} nats from the policy, {to_base:.4f} from the base")
    assert to_policy < 0.02
    assert to_base > 0.2
    # In every iteration, too, the policy of that iteration gave the rollouts.
    assert all(abs(line["m_step/sampler_kl"]) < 0.02 for line in runs[sampler].lines[1:])
