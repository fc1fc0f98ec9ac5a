"""A version whose effect is not what was trained fails; what cannot be told is unproven."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tempo_server.probe import Finding, Probe
from tempo_storage.adapters import AdapterStore

NAME = "tempo-v1"
SERVED = object()  # stands for the LoRARequest
NOISE = 0.03  # nats between two computations of one base


class World:
    """A version with probe.json, and an engine that serves `effect(d)` for a trained effect d."""

    def __init__(self, root: Path, *, mean_effect: float = 0.3, sequences: int = 8) -> None:
        self.random = random.Random(0)
        self.asked: list[tuple[int, bool]] = []
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
        async def score(tokens: Sequence[int], request: Any) -> list[float]:
            await asyncio.sleep(options.get("takes", 0))
            self.asked.append((len(tokens), request is SERVED))
            return [self.served(t, effect if request is SERVED else None) for t in tokens[1:]]

        longest, seconds = options.get("longest", 1000), options.get("seconds", 30)
        probe = Probe(self.store, score, longest=longest, seconds=seconds)
        return asyncio.run(probe.run(NAME, SERVED))

    def served(self, token: int, effect: Callable[[float], float] | None) -> float:
        base, trained = self.trained.get(token, (-9.0, 50.0))  # a prompt's tokens do not count
        served = effect(trained) if effect else 0.0
        return base + served + self.random.gauss(0, NOISE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_right_adapter_passes_with_its_figures(world: World) -> None:
    found = world.run(lambda d: d)
    assert (found.verdict, found.tokens) == ("passed", 160)
    assert found.effect == pytest.approx(0.3, rel=0.2)
    assert found.correlation is not None
    assert found.correlation > 0.95
    assert found.slope == pytest.approx(1, abs=0.1)
    assert world.asked == [(23, True), (23, False)] * 8  # one after the other


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
    assert "vLLM does not serve what was trained: over 160 tokens" in found.reason


def test_a_tiny_effect_is_unproven_whatever_is_served(tmp_path: Path) -> None:
    world = World(tmp_path, mean_effect=0.05)
    for effect in (lambda d: d, lambda d: 0.0):
        found = world.run(effect)
        assert found.verdict == "unproven"
        assert "is below 0.1" in found.reason


def test_too_few_tokens_prove_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, sequences=1)
    assert world.run(lambda d: d, longest=18).verdict == "unproven"
    assert world.run(lambda d: d, longest=19).verdict == "passed"
    assert world.run(lambda d: d, longest=3).tokens == 0


def test_sequences_are_cut_to_what_the_engine_takes(world: World) -> None:
    assert world.run(lambda d: d, longest=13).tokens == 80
    assert {length for length, _ in world.asked} == {13}


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
