"""Bindings decide who may name which adapter, and by which key vLLM looks it up."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_server.serving.bindings import MAX_OTHERS, Binding, Bindings
from tempo_storage.adapters import lora_int_id
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)

# Names -------------------------------------------------------------------------------------------


def test_before_any_promotion_the_base_answers_the_alias(names: Any) -> None:
    assert names.bind("tempo") == Binding(key="tempo-v0", name="tempo-v0")
    assert names.answerer("tempo") == "base"
    assert names.look_up("tempo") == "base"  # on a route that is not wrapped


def test_the_serving_version_answers_the_alias(names: Any) -> None:
    names.serve(1)
    assert names.answerer("tempo") == "tempo-v1"
    assert names.look_up("tempo") == "tempo-v1"
    names.serve(2, previous=1)
    assert names.answerer("tempo") == "tempo-v2"
    assert names.look_up("tempo") == "tempo-v2"


def test_a_request_keeps_its_adapter_when_the_alias_moves(names: Any) -> None:
    names.serve(1)
    binding = names.bind("tempo")
    names.serve(2, previous=1)
    names.serve(3, previous=2)
    assert names.look_up(binding.key) == "tempo-v1"


def test_users_can_name_only_the_base_and_the_two_public_versions(names: Any) -> None:
    names.serve(1)
    names.serve(2, previous=1)
    models = ["tiny", None, "tempo-v0", "tempo-v1", "tempo-v2", "tempo-v3", "tempo-t1", "else"]
    answerers = [names.answerer(model) for model in models]
    assert answerers == ["base", "base", "base", "tempo-v1", "tempo-v2", None, None, None]


def test_an_admin_can_name_every_stored_adapter_and_users_still_cannot(names: Any) -> None:
    assert names.answerer("tempo-v3", is_admin=True) == "tempo-v3"
    assert names.answerer("tempo-t1", is_admin=True) == "tempo-t1"
    assert names.answerer("tempo-t9", is_admin=True) is None
    assert names.answerer("tempo-t1") is None
    assert names.look_up("tempo-t1") is None


def test_an_alias_may_be_the_base_s_own_name(make_names: Any, tmp_path: Path) -> None:
    names = make_names(tmp_path, aliases=("tiny", "tempo"))
    names.publish("tempo-v1")
    assert names.answerer("tiny") == "base"
    names.serve(1)
    assert [names.answerer(model) for model in ("tiny", "tempo", None)] == ["tempo-v1"] * 3
    assert names.answerer("tempo-v0") == "base"


def test_an_alias_must_not_be_an_adapter_s_name(make_names: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="choose another"):
        make_names(tmp_path, aliases=("tempo-v7",))


def test_the_list_of_models_hides_adapters_that_are_not_public(names: Any) -> None:
    names.serve(1)
    names.serve(2, previous=1)
    listed = ["tiny", "tempo", "operators-own", "tempo-v0", "tempo-v1", "tempo-v2"]
    assert all(names.bindings.is_listed(name) for name in listed)
    assert not any(names.bindings.is_listed(name) for name in ("tempo-v3", "tempo-t1"))


def test_the_base_is_the_parent_of_the_aliases_and_of_our_adapters(names: Any) -> None:
    parents = {
        name: names.bindings.parent(name) for name in ("tiny", "tempo", "tempo-v0", "tempo-v3")
    }
    assert parents == {"tiny": None, "tempo": "tiny", "tempo-v0": "tiny", "tempo-v3": "tiny"}
    assert names.bindings.parent("operators-own") is None  # vLLM's own card names its parent


@pytest.mark.parametrize("route", ["load_lora_adapter", "unload_lora_adapter"])
def test_vllms_runtime_routes_cannot_take_our_names(names: Any, route: str) -> None:
    names.serve(1)
    function = getattr(names.models, route)
    for name in ("tempo", "tempo-v0", "tempo-v1", "tempo-v9", "tempo-t1"):
        with pytest.raises(InvalidInputError, match=f"'{name}' is a name of vllm-tempo"):
            asyncio.run(function(SimpleNamespace(lora_name=name)))
    assert names.updated == []
    assert names.answerer("tempo") == "tempo-v1"
    assert asyncio.run(function(SimpleNamespace(lora_name="operators-own"))) == "Success"
    assert names.updated == ["operators-own"]


@pytest.mark.parametrize("name", ["tempo", "tempo-v1"])
def test_a_lora_module_of_the_operator_must_not_have_our_name(names: Any, name: str) -> None:
    names.models.lora_requests = {name: object()}
    with pytest.raises(InvalidInputError, match=f"--lora-modules: '{name}'"):
        Bindings(names.bindings.context, names.engine, names.models)


# Loading -----------------------------------------------------------------------------------------


def test_each_adapter_has_the_id_that_belongs_to_its_name(names: Any) -> None:
    names.serve(1)
    names.answerer("tempo-t1", is_admin=True)
    ids = {r.lora_name: r.lora_int_id for r in names.models.lora_requests.values()}
    assert ids == {name: lora_int_id(name) for name in ("tempo-v1", "tempo-t1")}


def test_many_requests_at_once_load_an_adapter_once(names: Any) -> None:
    async def request() -> None:
        async with names.bindings.bind("tempo-t1", is_admin=True):
            pass

    async def requests() -> None:
        await asyncio.gather(*(request() for _ in range(9)))

    asyncio.run(requests())
    assert names.engine.loaded == ["tempo-t1"]


def test_old_trials_are_forgotten_and_public_versions_are_not(names: Any) -> None:
    names.serve(1)
    names.publish(*(f"tempo-t{number}" for number in range(2, 8)))
    for number in range(1, 8):
        names.bind(f"tempo-t{number}", is_admin=True)
    bound = {r.lora_name for r in names.models.lora_requests.values()}
    assert bound == {"tempo-v1"} | {f"tempo-t{n}" for n in range(8 - MAX_OTHERS, 8)}
    assert names.answerer("tempo-t1", is_admin=True) == "tempo-t1"  # it is loaded again


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"base": "models/other"}, "serve 'models/other'"),
        ({"rank": 64}, "restart with --max-lora-rank 64"),
    ],
)
def test_a_version_of_another_base_or_rank_is_refused_and_nothing_changes(
    names: Any, options: dict[str, Any], remedy: str
) -> None:
    names.serve(1)
    names.publish("tempo-v9", **options)
    with pytest.raises(AdapterMismatchError, match=remedy):
        names.serve(9, previous=1)
    assert names.answerer("tempo") == "tempo-v1"
    assert names.engine.loaded == ["tempo-v1"]


def test_a_damaged_or_missing_version_is_refused_and_nothing_changes(names: Any) -> None:
    names.serve(1)
    with (names.store.path("tempo-v2") / "adapter_model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(CorruptAdapterError, match="roll back"):
        names.serve(2, previous=1)
    with pytest.raises(NotFoundError):
        names.serve(8, previous=1)
    assert names.answerer("tempo") == "tempo-v1"


# Requests in flight ------------------------------------------------------------------------------


def test_an_adapter_is_held_until_its_last_request_ends(names: Any) -> None:
    held = names.bindings.held

    async def two_requests() -> None:
        async with names.bindings.bind("tempo-t1", is_admin=True):
            async with names.bindings.bind("tempo-t1", is_admin=True):
                names.publish(*(f"tempo-t{number}" for number in range(2, 3 + MAX_OTHERS)))
                for number in range(2, 3 + MAX_OTHERS):  # vLLM's table no longer has tempo-t1
                    await names.bindings.load(f"tempo-t{number}")
            assert "tempo-t1" in held()
        assert "tempo-t1" not in held()

    asyncio.run(two_requests())


def test_an_adapter_is_held_while_it_is_loaded(names: Any) -> None:
    async def request() -> None:
        async with names.bindings.bind("tempo-t1", is_admin=True):
            pass

    async def look_while_loading() -> None:
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        assert names.engine.loaded == []
        assert "tempo-t1" in names.bindings.held()
        await task

    asyncio.run(look_while_loading())


@pytest.mark.parametrize("name", ["tempo-v9", "tempo-t9"])
def test_a_request_that_cannot_be_bound_holds_nothing_afterwards(names: Any, name: str) -> None:
    names.publish("tempo-v9", base="models/other")  # it cannot be served; tempo-t9 does not exist

    async def request() -> None:
        async with names.bindings.bind(name, is_admin=True) as binding:
            assert binding is None

    if name == "tempo-v9":
        with pytest.raises(AdapterMismatchError):
            asyncio.run(request())
    else:
        asyncio.run(request())
    assert names.bindings.held() == ["tempo-v0"]


def test_loaded_and_public_adapters_are_held_without_any_request(names: Any) -> None:
    names.bind("tempo-t1", is_admin=True)
    names.serve(2, previous=1)
    assert names.bindings.held() == ["tempo-t1", "tempo-v0", "tempo-v1", "tempo-v2"]
