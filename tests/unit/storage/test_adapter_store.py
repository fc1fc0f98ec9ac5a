"""Adapter directories: whole or absent, and refused if their files were changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from adapters import publish_empty_adapter, write_empty_adapter

from tempo_storage.adapters import AdapterStore, lora_int_id, trial_name, version_name, version_of
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    made = AdapterStore(tmp_path / "adapters")
    publish_empty_adapter(made, "tempo-v1", base="m", rank=4)
    return made


def test_a_published_adapter_verifies(store: AdapterStore) -> None:
    assert store.names() == ["tempo-v1"]
    assert store.verify("tempo-v1", base="m", rank=4) == store.root / "tempo-v1"
    assert store.manifest("tempo-v1").rank == 4


def test_a_flipped_byte_is_refused(store: AdapterStore) -> None:
    file = store.path("tempo-v1") / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptAdapterError, match="not what was published"):
        store.verify("tempo-v1", base="m", rank=4)


def test_every_file_of_an_adapter_is_in_its_manifest(store: AdapterStore) -> None:
    def write_probe(directory: Path) -> None:
        write_empty_adapter(directory)
        (directory / "probe.json").write_text("{}")

    store.publish("tempo-v2", write_probe, base="m")
    store.verify("tempo-v2", base="m", rank=8)
    (store.path("tempo-v2") / "probe.json").unlink()
    with pytest.raises(CorruptAdapterError, match=r"probe\.json is not what was published"):
        store.verify("tempo-v2", base="m", rank=4)


def test_a_manifest_of_version_0_1_is_read(store: AdapterStore) -> None:
    path = store.path("tempo-v1") / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"info": {"step": 3}}))
    assert store.verify("tempo-v1", base="m", rank=4) == store.root / "tempo-v1"


@pytest.mark.parametrize(
    "change",
    [
        *({"rank": value} for value in ("4", None, [], {}, True, 1.5, -1, 2**63, 10**400)),
        *({"bytes": value} for value in ("4", -1, 10**400, float("inf"))),
        *({"sha256": value} for value in (None, [], "x", 7, {"a": 1}, {"../a": "x"}, {"": "x"})),
        *({name: value} for name in ("name", "base") for value in (None, 7, [], {})),
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_manifest_with_a_wrong_type_is_refused_and_the_message_names_the_field(
    store: AdapterStore, change: dict[str, Any]
) -> None:
    path = store.path("tempo-v1") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptAdapterError, match=rf"damaged \({next(iter(change))}") as raised:
        store.verify("tempo-v1", base="m", rank=4)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 5000, "\ufffe", '{"a": 1}'])
def test_a_manifest_that_is_none_is_refused(store: AdapterStore, text: str) -> None:
    (store.path("tempo-v1") / "manifest.json").write_text(text)
    with pytest.raises(CorruptAdapterError, match=r"manifest\.json is damaged"):
        store.verify("tempo-v1", base="m", rank=4)


def test_a_missing_manifest_is_refused(store: AdapterStore) -> None:
    (store.path("tempo-v1") / "manifest.json").unlink()
    with pytest.raises(CorruptAdapterError, match="manifest"):
        store.verify("tempo-v1", base="m", rank=4)


def test_a_wrong_base_or_rank_is_refused_with_the_remedy(store: AdapterStore) -> None:
    with pytest.raises(AdapterMismatchError, match="trained for 'm' but 'other'"):
        store.verify("tempo-v1", base="other", rank=4)
    with pytest.raises(AdapterMismatchError, match="restart with --max-lora-rank 4"):
        store.verify("tempo-v1", base="m", rank=2)


def test_a_writer_that_dies_leaves_no_adapter(store: AdapterStore) -> None:
    def die(directory: Path) -> None:
        write_empty_adapter(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.publish("tempo-v2", die, base="m")
    assert store.names() == ["tempo-v1"]
    store.sweep_unfinished()
    assert [p.name for p in store.root.iterdir()] == ["tempo-v1"]


def test_names_and_ids_are_unique_and_paths_cannot_escape(store: AdapterStore) -> None:
    assert version_of(version_name(7)) == 7
    assert lora_int_id(version_name(7)) != lora_int_id(trial_name(7))
    for name in (
        "../etc",
        "tempo-v",
        "tempo-v1/..",
        "base",
        "tempo-v01",
        "tempo-v１",
        "tempo-v1\n",
    ):
        with pytest.raises(InvalidInputError):
            lora_int_id(name)
        with pytest.raises(NotFoundError):
            store.path(name)
