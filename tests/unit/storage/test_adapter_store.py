"""Adapter directories: whole or absent, and refused if they are not what the ledger knows."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters import WEIGHTS, publish_empty_adapter, write_empty_adapter

from tempo_storage.adapters import AdapterStore, lora_int_id, trial_name, version_name, version_of
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)

NAME = "tempo-v1"


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    made = AdapterStore(tmp_path / "adapters")
    publish_empty_adapter(made, NAME, base="m", rank=4)
    return made


@pytest.fixture
def files(store: AdapterStore) -> dict[str, str]:
    """The digests of tempo-v1 as the ledger keeps them."""
    return store.manifest(NAME).files


def test_a_published_adapter_verifies(store: AdapterStore, files: dict[str, str]) -> None:
    assert store.names() == [NAME]
    assert store.verify(NAME, files, base="m", rank=4) == store.root / NAME
    assert store.manifest(NAME).rank == 4
    assert store.digests(NAME) == files


def flip(directory: Path) -> None:
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (directory / WEIGHTS).write_bytes(content)


def replace_with_its_manifest(directory: Path) -> None:
    """Put in an adapter that is whole: its manifest fits its files."""
    other = AdapterStore(directory.parent.parent / "other")

    def write(folder: Path) -> None:
        write_empty_adapter(folder, rank=4)
        (folder / WEIGHTS).write_bytes(b"\x02\0\0\0\0\0\0\0{}poison")

    other.publish(NAME, write, base="m")
    shutil.rmtree(directory)
    shutil.copytree(other.root / NAME, directory)


def add(name: str) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).write_text("x")


def link(directory: Path) -> None:
    """Replace the weights by a link to the same bytes, which may change later."""
    (directory / WEIGHTS).rename(directory.parent.parent / "elsewhere")
    (directory / WEIGHTS).symlink_to(directory.parent.parent / "elsewhere")


def link_all(directory: Path) -> None:
    directory.rename(directory.parent.parent / "elsewhere")
    directory.symlink_to(directory.parent.parent / "elsewhere")


CHANGES = {
    "a byte": (flip, r"adapter_model\.safetensors is not what was published"),
    "all files and the manifest": (replace_with_its_manifest, "manifest.json is not what was"),
    "one more file": (add("adapter_model.bin"), r"adapter_model\.bin is not what was published"),
    "one more hidden file": (add(".x"), r"\.x is not what was published"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), "adapter_model.safetensors is not"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is not"),
    "a link to the same bytes": (link, "adapter_model.safetensors is no file that can be read"),
    "a link to the directory": (link_all, "is a link"),
    "a directory": (lambda path: (path / "x").mkdir(), "x is no file that can be read"),
    "a pipe": (lambda path: os.mkfifo(path / "x"), "x is not what was published"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_missing_or_added_file_is_refused(
    store: AdapterStore, files: dict[str, str], change: str
) -> None:
    make, message = CHANGES[change]
    before = store.fingerprint(NAME)
    make(store.root / NAME)
    with pytest.raises(CorruptAdapterError, match=message):
        store.verify(NAME, files, base="m", rank=4)
    assert store.root.joinpath(NAME).is_symlink() or store.fingerprint(NAME) != before


def test_an_adapter_that_the_ledger_does_not_know_is_refused(store: AdapterStore) -> None:
    with pytest.raises(CorruptAdapterError, match="is not what was published"):
        store.verify(NAME, {}, base="m", rank=4)


def test_every_file_of_an_adapter_has_its_digest(store: AdapterStore) -> None:
    def write_probe(directory: Path) -> None:
        write_empty_adapter(directory)
        (directory / "probe.json").write_text("{}")

    files = store.publish("tempo-v2", write_probe, base="m").files
    store.verify("tempo-v2", files, base="m", rank=8)
    (store.path("tempo-v2") / "probe.json").unlink()
    with pytest.raises(CorruptAdapterError, match=r"probe\.json is not what was published"):
        store.verify("tempo-v2", files, base="m", rank=8)


def test_only_the_owner_can_read_an_adapter(store: AdapterStore) -> None:
    directory = store.path(NAME)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_a_manifest_of_version_0_1_is_read(store: AdapterStore) -> None:
    path = store.path(NAME) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"info": {"step": 3}}))
    assert store.verify(NAME, store.digests(NAME), base="m", rank=4) == store.root / NAME


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
    path = store.path(NAME) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptAdapterError, match=rf"damaged \({next(iter(change))}") as raised:
        store.verify(NAME, store.digests(NAME), base="m", rank=4)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 5000, "\ufffe", '{"a": 1}'])
def test_a_manifest_that_is_none_is_refused(store: AdapterStore, text: str) -> None:
    (store.path(NAME) / "manifest.json").write_text(text)
    with pytest.raises(CorruptAdapterError, match=r"manifest\.json is damaged"):
        store.verify(NAME, store.digests(NAME), base="m", rank=4)


def test_a_missing_manifest_is_refused(store: AdapterStore) -> None:
    (store.path(NAME) / "manifest.json").unlink()
    with pytest.raises(CorruptAdapterError, match="manifest"):
        store.verify(NAME, store.digests(NAME), base="m", rank=4)


def test_a_wrong_base_or_rank_is_refused_with_the_remedy(
    store: AdapterStore, files: dict[str, str]
) -> None:
    with pytest.raises(AdapterMismatchError, match="trained for 'm' but 'other'"):
        store.verify(NAME, files, base="other", rank=4)
    with pytest.raises(AdapterMismatchError, match="restart with --max-lora-rank 4"):
        store.verify(NAME, files, base="m", rank=2)


def test_a_writer_that_dies_leaves_no_adapter(store: AdapterStore) -> None:
    def die(directory: Path) -> None:
        write_empty_adapter(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.publish("tempo-v2", die, base="m")
    assert store.names() == [NAME]
    store.sweep_unfinished()
    assert [p.name for p in store.root.iterdir()] == [NAME]


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
