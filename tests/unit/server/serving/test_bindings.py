"""Who may name what, and what vLLM looks up for it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_server.serving.bindings import KEPT, Binding, Bindings
from tempo_storage.adapters import AdapterStore, lora_int_id
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)

BASE = "models/tiny"


class FakeEngine:
    """Remembers what was loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def add_lora(self, request: Any) -> None:
        await asyncio.sleep(0)
        self.loaded.append(request.lora_name)


def test_a_request_is_under_way_while_its_binding_is_referred_to(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish("tempo-v1")
    first = world.bind("tempo-v1", known_key=True)
    second = world.bind("tempo-v1", known_key=True)
    assert first == second
    assert world.bindings.in_flight == {"tempo-v1": 2}
    del first
    assert world.bindings.in_flight == {"tempo-v1": 1}
    del second
    assert world.bindings.in_flight == {}
    assert world.bindings.held() == ["tempo-v0", "tempo-v1"]  # loaded, and read again by vLLM


def test_a_version_is_held_while_it_is_loaded(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish("tempo-v1")

    async def bind_and_look() -> list[str]:
        binding = asyncio.create_task(world.bindings.bind("tempo-v1", known_key=True))
        await asyncio.sleep(0)
        held = world.bindings.held()
        await binding
        return held

    assert "tempo-v1" in asyncio.run(bind_and_look())


class World:
    """Bindings over a store in a temporary directory, and vLLM's two tables of names."""

    def __init__(self, root: Path, *, aliases: tuple[str, ...] = ("tempo",)) -> None:
        self.engine = FakeEngine()
        self.store = AdapterStore(root)
        self.models = SimpleNamespace(base_model_paths=[path("tiny")], lora_requests={})
        self.bindings = Bindings(
            self.engine,
            self.models,
            lora_request=SimpleNamespace,
            base_model_path=SimpleNamespace,
            store=self.store,
            base=BASE,
            rank=16,
            aliases=aliases,
        )

    def publish(self, name: str, *, base: str = BASE, rank: int = 8) -> None:
        def write(directory: Path) -> None:
            (directory / "adapter_config.json").write_text(json.dumps({"r": rank}))
            (directory / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")

        self.store.publish(name, write, base=base, info={})

    def bind(self, model: str | None, *, known_key: bool = False) -> Binding | None:
        return asyncio.run(self.bindings.bind(model, known_key=known_key))

    def serve(self, version: int, *, previous: int = 0) -> None:
        asyncio.run(self.bindings.serve(version, previous=previous))

    def answers(self, model: str | None, *, known_key: bool = False) -> str | None:
        """Return the adapter that vLLM would look up for a request, `base`, or None for a 404."""
        binding = self.bind(model, known_key=known_key)
        key = binding.key if binding else model
        return self.looked_up(key)

    def looked_up(self, key: str | None) -> str | None:
        if key in self.models.lora_requests:
            return str(self.models.lora_requests[key].lora_name)
        return "base" if key in [p.name for p in self.models.base_model_paths] else None


def path(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, model_path=BASE)


MakeWorld = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for name in ("tempo-v1", "tempo-v2", "tempo-v3", "tempo-t1"):
        made.publish(name)
    return made


def test_before_any_promotion_the_base_answers_the_alias(world: World) -> None:
    assert world.bind("tempo") == Binding(key="tempo-v0", name="tempo-v0")
    assert world.answers("tempo") == "base"
    assert world.looked_up("tempo") == "base"  # a route that is not wrapped


def test_the_alias_answers_with_what_serves(world: World) -> None:
    world.serve(1)
    assert world.answers("tempo") == "tempo-v1"
    assert world.looked_up("tempo") == "tempo-v1"
    world.serve(2, previous=1)
    assert world.answers("tempo") == "tempo-v2"
    assert world.looked_up("tempo") == "tempo-v2"


def test_a_request_keeps_its_adapter_when_the_alias_moves(world: World) -> None:
    world.serve(1)
    bound = world.bind("tempo")
    assert bound is not None
    world.serve(2, previous=1)
    world.serve(3, previous=2)
    assert world.looked_up(bound.key) == "tempo-v1"


def test_users_name_the_base_and_the_two_public_versions_only(world: World) -> None:
    world.serve(1)
    world.serve(2, previous=1)
    named = ["tiny", None, "tempo-v0", "tempo-v1", "tempo-v2", "tempo-v3", "tempo-t1", "else"]
    answers = [world.answers(name) for name in named]
    assert answers == ["base", "base", "base", "tempo-v1", "tempo-v2", None, None, None]


def test_the_worker_names_every_stored_adapter_and_nobody_else_can_then(world: World) -> None:
    assert world.answers("tempo-v3", known_key=True) == "tempo-v3"
    assert world.answers("tempo-t1", known_key=True) == "tempo-t1"
    assert world.answers("tempo-t9", known_key=True) is None
    assert world.answers("tempo-t1") is None
    assert world.looked_up("tempo-t1") is None


def test_an_alias_may_be_the_bases_own_name(tmp_path: Path) -> None:
    world = World(tmp_path, aliases=("tiny", "tempo"))
    world.publish("tempo-v1")
    assert world.answers("tiny") == "base"
    world.serve(1)
    assert [world.answers(name) for name in ("tiny", "tempo", None)] == ["tempo-v1"] * 3
    assert world.answers("tempo-v0") == "base"


def test_an_alias_must_not_be_an_adapters_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="choose another"):
        World(tmp_path, aliases=("tempo-v7",))


def test_ids_belong_to_names(world: World) -> None:
    world.serve(1)
    world.answers("tempo-t1", known_key=True)
    ids = {r.lora_name: r.lora_int_id for r in world.models.lora_requests.values()}
    assert ids == {name: lora_int_id(name) for name in ("tempo-v1", "tempo-t1")}


def test_an_adapter_is_loaded_once_for_many_requests(world: World) -> None:
    async def storm() -> None:
        await asyncio.gather(*(world.bindings.bind("tempo-t1", known_key=True) for _ in range(9)))

    asyncio.run(storm())
    assert world.engine.loaded == ["tempo-t1"]


def test_old_snapshots_are_forgotten_and_public_versions_are_not(world: World) -> None:
    world.serve(1)
    for number in range(1, 8):
        world.publish(f"tempo-t{number}")
        world.bind(f"tempo-t{number}", known_key=True)
    names = {r.lora_name for r in world.models.lora_requests.values()}
    assert names == {"tempo-v1"} | {f"tempo-t{n}" for n in range(8 - KEPT, 8)}
    assert world.answers("tempo-t1", known_key=True) == "tempo-t1"  # loaded anew


@pytest.mark.parametrize(
    ("options", "error", "remedy"),
    [
        ({"base": "models/other"}, AdapterMismatchError, "serve 'models/other'"),
        ({"rank": 64}, AdapterMismatchError, "restart with --max-lora-rank 64"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    world: World, options: dict[str, Any], error: type[Exception], remedy: str
) -> None:
    world.serve(1)
    world.publish("tempo-v9", **options)
    with pytest.raises(error, match=remedy):
        world.serve(9, previous=1)
    assert world.answers("tempo") == "tempo-v1"
    assert world.engine.loaded == ["tempo-v1"]


def test_a_damaged_file_is_refused_and_nothing_changes(world: World) -> None:
    world.serve(1)
    with (world.store.path("tempo-v2") / "adapter_model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(CorruptAdapterError, match="roll back"):
        world.serve(2, previous=1)
    with pytest.raises(NotFoundError):
        world.serve(8, previous=1)
    assert world.answers("tempo") == "tempo-v1"


def test_listed_are_public_names_and_names_that_are_not_ours(world: World) -> None:
    world.serve(1)
    world.serve(2, previous=1)
    names = ["tiny", "tempo", "operators-own", "tempo-v0", "tempo-v1", "tempo-v2"]
    assert all(world.bindings.is_listed(name) for name in names)
    assert not any(world.bindings.is_listed(name) for name in ("tempo-v3", "tempo-t1"))
