"""A running server answers with the files that were published, and with no others."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from adapters import WEIGHTS, flip_a_byte
from attackers import V1, chat
from traffic import CHAT, answering_version
from waiting import eventually

from tempo_storage import ledger
from tempo_storage.adapters import MANIFEST_FILE, version_name

pytestmark = [pytest.mark.vllm, pytest.mark.service]
Seen = Callable[[object], None]
Change = Callable[[Path], None]


def forge_manifest(directory: Path) -> None:
    """Write a manifest that fits the files as they are now."""
    from tempo_storage.adapters import _sha256

    path = directory / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    files = [file for file in directory.iterdir() if file.name != MANIFEST_FILE]
    manifest["sha256"] = {file.name: _sha256(file) for file in files}
    path.write_text(json.dumps(manifest, indent=1))


def change_weights(directory: Path) -> None:
    flip_a_byte(directory / WEIGHTS)
    forge_manifest(directory)


def add_a_file(directory: Path) -> None:
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    forge_manifest(directory)


def link_a_file(directory: Path) -> None:
    outside = directory.parent / f"outside-{directory.name}"
    shutil.move(directory / WEIGHTS, outside)
    (directory / WEIGHTS).symlink_to(outside)


def link_the_directory(directory: Path) -> None:
    outside = directory.parent.parent / f"outside-{directory.name}"
    shutil.move(directory, outside)
    directory.symlink_to(outside)


def rename_a_file(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "adapter_model.bin")
    forge_manifest(directory)


CHANGES: dict[str, Change] = {
    "a changed byte, the manifest with it": change_weights,
    "one more file, in the manifest too": add_a_file,
    "a file under another name, in the manifest too": rename_a_file,
    "a link in the place of a file": link_a_file,
    "a link in the place of the directory": link_the_directory,
    "no weights": lambda directory: (directory / WEIGHTS).unlink(),
    "a pipe in the place of a file": lambda directory: _pipe(directory / WEIGHTS),
}


def _pipe(path: Path) -> None:
    import os

    path.unlink()
    os.mkfifo(path)


@pytest.fixture
def serving(stack: Any, make_version_of: Any) -> str:
    """The name of a version that serves."""
    version = make_version_of(stack, seed=31, scale=1.0)
    assert stack.promote(version) is None
    return version_name(version)


def refusals(stack: Any, name: str) -> list[str]:
    """Return the events that say that a version was refused."""
    with stack.sessions() as s:
        newest = ledger.events.find(s, newest_first=True)
        return [e.type for e in newest if e.level == "error" and name in e.message]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.attack(
                "versions",
                f"a version with {name}, before it is loaded",
                promise="it is refused, an event says so, the version before it serves",
            ),
        )
        for name in CHANGES
    ],
)
def test_a_version_whose_files_changed_is_not_promoted(
    stack: Any, admin: httpx.Client, serving: str, make_version_of: Any, seen: Seen, name: str
) -> None:
    version = version_name(make_version_of(stack, seed=32, scale=1.0))
    CHANGES[name](stack.store.root / version)
    reply = admin.post(f"{V1}/adapters/{version}/promote", json={})
    answer = answering_version(stack)
    events = refusals(stack, version)
    seen(f"{reply.status_code}, the event {events[:1]}, {answer} serves, not {version}")
    assert (reply.status_code, answer) == (409, serving)
    assert events


@pytest.mark.attack(
    "versions",
    "a directory that another version's files replaced, under its name",
    promise="it is refused; the version before it serves",
)
def test_the_files_of_another_version_are_not_served_under_a_name(
    stack: Any, admin: httpx.Client, serving: str, make_version_of: Any, seen: Seen
) -> None:
    first, second = (version_name(make_version_of(stack, seed=n)) for n in (33, 34))
    directory = stack.store.root / first
    shutil.rmtree(directory)
    shutil.copytree(stack.store.root / second, directory)
    manifest = directory / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace(second, first))
    reply = admin.post(f"{V1}/adapters/{first}/promote", json={"force": True})
    answer = answering_version(stack)
    assert (reply.status_code, answer) == (409, serving)
    seen(f"{reply.status_code}, {answer} serves, not {first}")


@pytest.mark.attack(
    "versions",
    "a file is replaced while its version serves",
    promise="the version before it serves within seconds, an event says so",
)
def test_a_version_that_is_changed_while_it_serves_is_left(
    stack: Any, serving: str, make_version_of: Any, seen: Seen
) -> None:
    version = make_version_of(stack, seed=35, scale=1.0)
    assert stack.promote(version) is None
    assert answering_version(stack) == version_name(version)
    change_weights(stack.store.root / version_name(version))
    start = time.monotonic()
    eventually(lambda: answering_version(stack) == serving, seconds=20)
    seconds = time.monotonic() - start
    events = refusals(stack, version_name(version))
    seen(f"left after {seconds:.1f} s, the event {events[:1]}")
    assert seconds < 10
    assert events


MANIFESTS = (
    *("", "null", "[]", '"x"', "{", "{}", "[" * 100_000, "1e400", "\0", '{"name": 1}'),
    *('{"name": "N", "base": 5, "rank": "8", "sha256": [], "bytes": -1}',),
    *('{"name": "N", "base": "b", "rank": 1e400, "sha256": {}, "bytes": 0}',),
    *('{"name": "N", "base": "b", "rank": 8, "sha256": {"../../admin.key": "0"}, "bytes": 0}',),
    *('{"name": "N", "base": "b", "rank": 8, "sha256": {"a": null}, "bytes": true}',),
    f'{{"name": "N", "base": "{"b" * 5_000_000}", "rank": 8, "sha256": {{}}, "bytes": 0}}',
)


@pytest.mark.attack(
    "versions",
    "manifests of wrong types, without end, with paths, of 5 MB",
    promise="409, no 5xx; the version before it serves",
)
@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_a_manifest_of_wrong_types_is_refused(
    stack: Any, admin: httpx.Client, serving: str, make_version_of: Any, seen: Seen, number: int
) -> None:
    version = version_name(make_version_of(stack, seed=36))
    path = stack.store.root / version / MANIFEST_FILE
    path.write_text(MANIFESTS[number].replace('"N"', f'"{version}"'))
    reply = admin.post(f"{V1}/adapters/{version}/promote", json={})
    assert (reply.status_code, answering_version(stack)) == (409, serving)
    assert len(reply.text) < 2_000
    seen(f"{reply.status_code} {reply.json()['error']['code']}")


@pytest.mark.attack(
    "versions",
    "whoever may promote names a directory that the ledger does not know",
    promise="404 or 409, and it is never loaded",
)
def test_a_directory_that_the_ledger_does_not_know_is_not_served(
    stack: Any, admin: httpx.Client, serving: str, seen: Seen
) -> None:
    shutil.copytree(stack.store.root / serving, stack.store.root / "tempo-v999")
    shutil.copytree(stack.store.root / serving, stack.store.root / "tempo-t999")
    codes = [admin.post(f"{V1}/adapters/tempo-v999/promote", json={"force": True}).status_code]
    for name in ("tempo-v999", "tempo-t999"):
        body = chat("unknown") | {"model": name}
        headers = {"X-Tempo-Key": stack.admin_key}
        codes.append(stack.http.post(CHAT, json=body, headers=headers).status_code)
    loaded = [name for name in ("tempo-v999", "tempo-t999") if f"{name} is loaded" in stack.log]
    assert (set(codes) <= {404, 409}, loaded) == (True, [])
    assert answering_version(stack) == serving
    seen(f"{codes}, {len(loaded)} loaded")
