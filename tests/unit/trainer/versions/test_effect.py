"""The log-probabilities stored with a version are those of its exported adapter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import PeftModel

from tempo_trainer.algorithm.batch import Rollout
from tempo_trainer.versions import effect


def rollout(question: str, prompt: int = 3, response: int = 5, *, first: int = 2) -> Rollout:
    ids = [2 + (first + i) % (tiny.VOCABULARY - 2) for i in range(response)]
    return Rollout(
        content_hash=question,
        prompt_ids=[2 + i % 20 for i in range(prompt)],
        response_ids=ids,
        logprobs=[-1.0] * response,
        group=0,
        finish_reason="stop",
        labeled=True,
        outcome=math.nan,
    )


def test_one_rollout_a_question_is_chosen_and_cut() -> None:
    rollouts = [rollout("a"), rollout("a"), rollout("b", response=300), rollout("c", prompt=510)]
    rollouts += [rollout("d", prompt=512), rollout("e", response=0)]
    chosen = effect.choose(rollouts)
    assert [(r.content_hash, len(r.response_ids)) for r in chosen] == [
        ("a", 5),
        ("b", 128),
        ("c", 2),
    ]
    assert len(effect.choose(rollout(str(i)) for i in range(20))) == effect.SEQUENCES


@pytest.mark.parametrize("max_tokens", [8, 1000])
def test_the_stored_log_probabilities_are_those_of_peft_on_the_exported_adapter(
    tmp_path: Path, max_tokens: int
) -> None:
    networks = tiny.networks()
    with torch.no_grad():
        for parameter in networks.policy.optimiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    networks.policy.export(tmp_path)
    rollouts = [rollout("a"), rollout("b", 2, 7)]
    effect.write(tmp_path, networks, rollouts, max_tokens=max_tokens)
    sequences = json.loads((tmp_path / "probe.json").read_text())["sequences"]
    policy = PeftModel.from_pretrained(tiny.model(), str(tmp_path))
    for sequence, row in zip(sequences, rollouts, strict=True):
        assert (sequence["prompt"], sequence["response"]) == (row.prompt_ids, row.response_ids)
        assert sequence["policy"] == pytest.approx(logprobs(policy, row), abs=1e-4)
        assert sequence["base"] == pytest.approx(logprobs(tiny.model(), row), abs=1e-4)
        assert sequence["policy"] != pytest.approx(sequence["base"], abs=0.01)


def test_nothing_is_written_when_no_rollout_is_short_enough(tmp_path: Path) -> None:
    effect.write(tmp_path, tiny.networks(), [rollout("a", prompt=600)], max_tokens=1000)
    assert list(tmp_path.iterdir()) == []


def logprobs(model: Any, row: Rollout) -> list[float]:
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
    with torch.no_grad():
        table = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
    values: list[float] = table.gather(1, ids[0, 1:, None])[len(row.prompt_ids) - 1 :, 0].tolist()
    return values
