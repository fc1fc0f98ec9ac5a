"""A version whose effect is not what was trained fails; what cannot be told is unproven."""

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
SERVED = object()  # stands for the LoRARequest
NOISE = 0.03  # nats between two computations of one base


class World:
    """A version with probe.json, and an engine that serves `effect(d)` for a trained effect d."""

    def __init__(self, root: Path, *, mean_effect: float = 0.3, sequences: int = 8) -> None:
        self.random = random.Random(0)
        self.asked: list[tuple[tuple[int, ...], int, bool]] = []
        self.running = self.most = 0
        self.noise = NOISE
        self.trained = {}
        told = []
        for number in range(sequences):
            response = [100 * number + t for t in range(20)]
            base = [-self.random.expovariate(1) for _ in response]
            effects = [self.random.gauss(0, 1.25 * mean_effect) for _ in response]
            self.trained.update(zip(response, zip(base, effects, strict=True), strict=True))
            policy = [b + d for b, d in zip(base, effects, strict=True)]
            told.append({"prompt": [7, 8, 9], "response": response, "policy": policy, "base": base})
        self.store = AdapterStore(root)
        self.write(json.dumps({"sequences": told}))

    def write(self, text: str | None) -> None:
        directory = self.store.root / NAME
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "probe.json").unlink(missing_ok=True)
        if text is not None:
            (directory / "probe.json").write_text(text)

    def run(self, effect: Callable[[float], float], **options: Any) -> Finding:
        async def score(before: Sequence[int], token: int, request: Any) -> float:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(options.get("takes", 0))
            self.running -= 1
            self.asked.append((tuple(before), token, request is SERVED))
            return self.served(token, effect if request is SERVED else None)

        longest, seconds = options.get("longest", 1000), options.get("seconds", 30)
        probe = Probe(self.store, score, longest=longest, seconds=seconds)
        return asyncio.run(probe.run(NAME, SERVED))

    def served(self, token: int, effect: Callable[[float], float] | None) -> float:
        base, trained = self.trained.get(token, (-9.0, 50.0))  # a prompt's tokens do not count
        served = effect(trained) if effect else 0.0
        return base + served + self.random.gauss(0, self.noise)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_right_adapter_passes_with_its_figures(world: World) -> None:
    found = world.run(lambda d: d)
    assert (found.verdict, found.tokens) == ("passed", 56)
    assert found.effect == pytest.approx(0.3, rel=0.2)
    assert found.correlation is not None
    assert found.correlation > 0.95
    assert found.slope == pytest.approx(1, abs=0.1)


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
def test_what_was_not_trained_fails(world: World, effect: Callable[[float], float]) -> None:
    found = world.run(effect)
    assert found.verdict == "failed"
    assert "vLLM does not serve what was trained: over 56 tokens" in found.reason


def test_a_tiny_effect_is_unproven_whatever_is_served(tmp_path: Path) -> None:
    world = World(tmp_path, mean_effect=0.05)
    for effect in (lambda d: d, lambda d: 0.0):
        found = world.run(effect)
        assert found.verdict == "unproven"
        assert "too small to tell (below 0.100)" in found.reason


def test_an_effect_that_does_not_stand_out_from_the_noise_is_unproven(world: World) -> None:
    world.noise = 0.3  # two bases that round differently
    found = world.run(lambda d: d)
    assert (found.verdict, found.noise) == ("unproven", pytest.approx(0.24, rel=0.3))
    assert found.effect is not None
    assert found.effect > 0.1


def test_another_base_fails_whatever_the_adapter_does(world: World) -> None:
    world.noise = 3.0
    found = world.run(lambda d: d)
    assert (found.verdict, found.effect is not None) == ("failed", True)
    assert "vLLM's base is not the trainer's: they differ by" in found.reason


def test_too_few_tokens_prove_nothing(tmp_path: Path) -> None:
    few, enough = World(tmp_path / "a", sequences=2), World(tmp_path / "b", sequences=3)
    assert (few.run(lambda d: d).tokens, few.run(lambda d: d).verdict) == (14, "unproven")
    assert (enough.run(lambda d: d).tokens, enough.run(lambda d: d).verdict) == (21, "passed")
    assert enough.run(lambda d: d, longest=3).tokens == 0


def test_sequences_are_cut_to_what_the_engine_takes(world: World) -> None:
    assert world.run(lambda d: d, longest=13).tokens == 40
    assert max(len(before) for before, _, _ in world.asked) == 11


def test_each_place_is_asked_with_the_adapter_and_without_a_few_at_once(world: World) -> None:
    world.run(lambda d: d)
    with_adapter = [asked[:2] for asked in world.asked if asked[2]]
    without = [asked[:2] for asked in world.asked if not asked[2]]
    assert sorted(with_adapter) == sorted(without)
    assert ((7, 8, 9), 0) in with_adapter
    assert ((7, 8, 9, 0, 1, 2), 3) in with_adapter
    assert world.most == 8


def test_masked_log_probabilities_cannot_be_asked(world: World) -> None:
    found = asyncio.run(Probe(world.store, None, longest=100).run(NAME, SERVED))
    assert found.verdict == "unproven"
    assert "--logprobs-mode is not raw_logprobs" in found.reason


def test_without_probe_json_an_adapter_is_unproven(world: World) -> None:
    world.write(None)
    assert world.run(lambda d: d) == Finding("unproven", "it has no probe.json")


def test_a_probe_that_cannot_be_made_refuses_nobody(world: World) -> None:
    slow = world.run(lambda d: d, takes=0.05, seconds=0.2)
    assert slow == Finding("unproven", "vLLM did not answer within 0.2 s")
    for text in ("{}", "[", '{"sequences": [{"prompt": [1]}]}'):
        world.write(text)
        assert "it cannot be probed" in world.run(lambda d: d).reason


def test_an_engine_that_fails_refuses_nobody(world: World) -> None:
    found = world.run(lambda d: 1 / 0)
    assert (found.verdict, "ZeroDivisionError" in found.reason) == ("unproven", True)
