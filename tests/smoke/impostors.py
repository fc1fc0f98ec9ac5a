"""Adapters that pass themselves off as the last version: its probe.json beside other weights."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tempo_storage import ledger
from tempo_storage.adapters import FILES, PROBE_FILE, AdapterStore, version_name, version_of
from tempo_storage.ledger.models import Adapter
from tempo_storage.ledger.sessions import open_database

CONFIG, WEIGHTS = FILES


@dataclass(frozen=True, slots=True)
class Impostor:
    """An adapter with the files of one version, changed, and the probe of another."""

    description: str
    files: str
    probe: str
    change: Callable[[Path], None]


def impostors(last: str, previous: str) -> Iterator[Impostor]:
    """Yield three adapters that are not the version `last`."""
    yield Impostor("base", last, last, _silence)
    yield Impostor("previous version", previous, last, lambda directory: None)
    yield Impostor("alpha x 4", last, last, _quadruple_alpha)


def publish(impostor: Impostor, root: Path) -> str:
    """Publish an impostor as the next version of a data directory; return its name."""
    store = AdapterStore(root / "adapters")
    sessions = open_database(f"sqlite:///{root / 'tempo.db'}")

    def write(directory: Path) -> None:
        for file in FILES:
            shutil.copy(store.path(impostor.files) / file, directory)
        shutil.copy(store.path(impostor.probe) / PROBE_FILE, directory)
        impostor.change(directory)

    with sessions.begin() as s:
        version = ledger.versions.next_version(s)
        name = version_name(version)
        manifest = store.publish(name, write, base=store.manifest(impostor.files).base)
        row: dict[str, Any] = {"job_id": "", "checkpoint": "", "sha256": ""}
        row |= {"version": version, "parent": version_of(impostor.probe), "bytes": manifest.bytes}
        s.add(Adapter(status="candidate", **row))
        ledger.published.add(s, manifest)
    sessions.kw["bind"].dispose()
    return name


def _silence(directory: Path) -> None:
    """Set every weight to 0, so that the base answers."""
    path = directory / WEIGHTS
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)


def _quadruple_alpha(directory: Path) -> None:
    path = directory / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))
