"""The probe fails a version that is not what was trained, but not one on another base."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tempo_server.serving.probe import Finding, Probe
from tempo_storage.adapters import AdapterStore

NAME = "tempo-v1"
REQUEST = object()  # stands for the LoRARequest
NOISE = 0.03  # nats between two computations of the same base
SEQUENCES = 8
RESPONSE_TOKENS = 20

Effect = Callable[[float], float]


class Probed:
    """A version with a probe.json, and a fake vLLM that serves `effect(d)` for a trained effect d.

    Token t of response n has the id 100 n + t; every prompt is 7, 8, 9.
    """

    def __init__(self, root: Path, *, mean_effect: float = 0.3, sequences: int = SEQUENCES) -> None:
        self.random = random.Random(0)
        self.calls: list[tuple[tuple[int, ...], int, bool]] = []
        self.running = 0
        self.max_running = 0
        self.noise = NOISE
        self.trained: dict[int, tuple[float, float]] = {}  # token -> base's log-probability, effect
        records = []
        for number in range(sequences):
            response = [100 * number + t for t in range(RESPONSE_TOKENS)]
            base = [-self.random.expovariate(1) for _ in response]
            effects = [self.random.gauss(0, 1.25 * mean_effect) for _ in response]
            self.trained |= dict(zip(response, zip(base, effects, strict=True), strict=True))
            policy = [b + d for b, d in zip(base, effects, strict=True)]
            record = {"prompt": [7, 8, 9], "response": response, "policy": policy, "base": base}
            records.append(record)
        self.store = AdapterStore(root)
        self.write(json.dumps({"sequences": records}))

    def write(self, text: str | None) -> None:
        """Replace probe.json, or delete it."""
        directory = self.store.root / NAME
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "probe.json").unlink(missing_ok=True)
        if text is not None:
            (directory / "probe.json").write_text(text)

    def probe(
        self, effect: Effect, *, max_tokens: int = 1000, timeout: float = 30, delay: float = 0
    ) -> Finding:
        """Probe while vLLM serves an effect, and takes `delay` seconds for each token."""

        async def score(before: Sequence[int], token: int, request: Any) -> float:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
            await asyncio.sleep(delay)
            self.running -= 1
            self.calls.append((tuple(before), token, request is REQUEST))
            return self._served(token, effect if request is REQUEST else None)

        probe = Probe(self.store, score, max_tokens=max_tokens, timeout_seconds=timeout)
        return asyncio.run(probe.run(NAME, REQUEST))

    def _served(self, token: int, effect: Effect | None) -> float:
        base, trained = self.trained.get(token, (-9.0, 50.0))  # a prompt's token would stand out
        served = effect(trained) if effect else 0.0
        return base + served + self.random.gauss(0, self.noise)


def as_trained(effect: float) -> float:
    return effect


@pytest.fixture
def probed(tmp_path: Path) -> Probed:
    return Probed(tmp_path)


# Findings ----------------------------------------------------------------------------------------


def test_a_version_that_is_served_as_it_was_trained_passes(probed: Probed) -> None:
    finding = probed.probe(as_trained)
    assert (finding.verdict, finding.tokens) == ("passed", 56)
    assert finding.effect == pytest.approx(0.3, rel=0.2)
    assert finding.correlation is not None
    assert finding.correlation > 0.95
    assert finding.slope == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "effect",
    [
        lambda d: 0.0,
        lambda d: 4 * d,
        lambda d: -d,
        lambda d: 0.5 * d,
        lambda d: random.Random(d).gauss(0, 0.4),
        lambda d: d + random.Random(d).gauss(0, 0.6),
        lambda d: float("nan"),
    ],
    ids=["base", "alpha x 4", "sign", "half", "another adapter", "noise", "nan"],
)
def test_a_version_with_another_effect_than_the_trained_one_fails(
    probed: Probed, effect: Effect
) -> None:
    finding = probed.probe(effect)
    assert finding.verdict == "failed"
    assert "vLLM does not serve what was trained: over 56 tokens" in finding.reason


@pytest.mark.parametrize("effect", [as_trained, lambda d: 0.0])
def test_a_tiny_effect_is_unproven_whatever_is_served(tmp_path: Path, effect: Effect) -> None:
    finding = Probed(tmp_path, mean_effect=0.05).probe(effect)
    assert finding.verdict == "unproven"
    assert "too small to tell (below 0.100)" in finding.reason


def test_an_effect_that_does_not_stand_out_from_the_noise_is_unproven(probed: Probed) -> None:
    probed.noise = 0.3  # the two bases round differently
    finding = probed.probe(as_trained)
    assert (finding.verdict, finding.noise) == ("unproven", pytest.approx(0.24, rel=0.3))
    assert finding.effect is not None
    assert finding.effect > 0.1


@pytest.mark.parametrize("noise", [3.0, float("nan")])
@pytest.mark.parametrize("effect", [as_trained, lambda d: 0.0])
def test_another_base_than_the_trainer_s_is_a_mismatch_whatever_the_adapter_does(
    probed: Probed, noise: float, effect: Effect
) -> None:
    probed.noise = noise
    finding = probed.probe(effect)
    assert (finding.verdict, finding.effect is not None) == ("mismatch", True)
    assert "vLLM's base is not the trainer's: they differ by" in finding.reason


def test_fewer_than_sixteen_tokens_prove_nothing(tmp_path: Path) -> None:
    two = Probed(tmp_path / "2", sequences=2).probe(as_trained)
    assert (two.tokens, two.verdict) == (14, "unproven")
    probed = Probed(tmp_path / "3", sequences=3)
    three = probed.probe(as_trained)
    assert (three.tokens, three.verdict) == (21, "passed")
    assert probed.probe(as_trained, max_tokens=3).tokens == 0


# Requests to vLLM --------------------------------------------------------------------------------


def test_sequences_are_cut_to_the_length_that_vllm_takes(probed: Probed) -> None:
    assert probed.probe(as_trained, max_tokens=13).tokens == 40
    assert max(len(before) for before, _, _ in probed.calls) == 11


def test_each_token_is_scored_with_and_without_the_adapter_eight_at_once(probed: Probed) -> None:
    probed.probe(as_trained)
    with_adapter = [(before, token) for before, token, has_adapter in probed.calls if has_adapter]
    without = [(before, token) for before, token, has_adapter in probed.calls if not has_adapter]
    assert sorted(with_adapter) == sorted(without)
    assert ((7, 8, 9), 0) in with_adapter
    assert ((7, 8, 9, 0, 1, 2), 3) in with_adapter
    assert probed.max_running == 8


# Probes that cannot be made ----------------------------------------------------------------------


def test_without_raw_log_probabilities_a_version_is_unproven(probed: Probed) -> None:
    probe = Probe(probed.store, None, max_tokens=100)
    finding = asyncio.run(probe.run(NAME, REQUEST))
    assert finding.verdict == "unproven"
    assert "--logprobs-mode is not raw_logprobs" in finding.reason


def test_without_probe_json_a_version_is_unproven(probed: Probed) -> None:
    probed.write(None)
    assert probed.probe(as_trained) == Finding("unproven", "it has no probe.json")


def test_a_version_is_unproven_if_vllm_does_not_answer_in_time(probed: Probed) -> None:
    finding = probed.probe(as_trained, delay=0.05, timeout=0.2)
    assert finding == Finding("unproven", "vLLM did not answer within 0.2 s")


@pytest.mark.parametrize("text", ["{}", "[", '{"sequences": [{"prompt": [1]}]}'])
def test_a_version_whose_probe_json_is_damaged_is_unproven(probed: Probed, text: str) -> None:
    probed.write(text)
    finding = probed.probe(as_trained)
    assert finding.verdict == "unproven"
    assert "it cannot be probed" in finding.reason


def test_a_version_is_unproven_if_vllm_raises(probed: Probed) -> None:
    finding = probed.probe(lambda d: 1 / 0)
    assert (finding.verdict, "ZeroDivisionError" in finding.reason) == ("unproven", True)
