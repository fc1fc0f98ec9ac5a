"""Immutable adapter directories: written aside, hashed, fsynced, renamed; verified at each load.

    <root>/tempo-v7/adapter_config.json adapter_model.safetensors probe.json manifest.json

`tempo-v<N>` are versions, `tempo-t<N>` the iterations' snapshots. A name is never used twice and
a directory never changes: vLLM keys its prefix cache by name and path, and reads evicted adapters
from disk again in the middle of a step.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tempo_storage.directories import written_whole
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)

NAME = re.compile(r"tempo-([vt])(\d{1,9})")
FILES = ("adapter_config.json", "adapter_model.safetensors")
PROBE_FILE = "probe.json"  # what the trainer computes with it; a server compares what it serves
FIRST_ID = {"v": 1_000_000, "t": 1_000_000_000}
TRIALS_KEPT = 3


def version_name(version: int) -> str:
    """Return the name under which vLLM serves a version; version 0 is the base."""
    return f"tempo-v{version}"


def trial_name(number: int) -> str:
    """Return the name of an iteration's snapshot."""
    return f"tempo-t{number}"


def version_of(name: str) -> int:
    """Return N of `tempo-v<N>`; raise InvalidInputError for anything else."""
    match = NAME.fullmatch(name)
    if match is None or match[1] != "v":
        raise InvalidInputError(f"{name!r} is no adapter version; write tempo-v<number>")
    return int(match[2])


def lora_int_id(name: str) -> int:
    """Return vLLM's integer id of an adapter: unique per name, the same in every process."""
    match = NAME.fullmatch(name)
    if match is None:
        raise InvalidInputError(f"{name!r} is no adapter name; write tempo-v<number>")
    return FIRST_ID[match[1]] + int(match[2])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a directory promises: hashes by file name, the rank and the base it belongs to."""

    name: str
    base: str
    rank: int
    sha256: dict[str, str]
    bytes: int
    info: dict[str, Any]


class AdapterStore:
    """The directories under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return the directory of an adapter; raise NotFoundError when there is none."""
        if NAME.fullmatch(name) is None or not (self.root / name).is_dir():
            raise NotFoundError(f"no adapter {name!r} under {self.root}")
        return self.root / name

    def names(self) -> list[str]:
        """Return the names of all complete adapters."""
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(p.name for p in found if NAME.fullmatch(p.name))

    def publish(
        self, name: str, write: Callable[[Path], None], *, base: str, info: dict[str, Any]
    ) -> Manifest:
        """Write an adapter aside with `write(directory)` and make it visible at once and whole.

        An identical directory that a killed worker left behind is replaced before anyone could
        have loaded it: names are handed out together with the commit of their row.
        """
        if NAME.fullmatch(name) is None:
            raise InvalidInputError(f"{name!r} is no adapter name; write tempo-v<number>")
        with written_whole(self.root / name) as aside:
            write(aside)
            manifest = _seal(aside, name, base, info)
        return manifest

    def publish_trial(self, write: Callable[[Path], None], *, base: str) -> str:
        """Publish a snapshot under the next number and return its name; old snapshots go."""
        numbers = sorted(int(n.removeprefix("tempo-t")) for n in self.names() if "-t" in n)
        name = trial_name(numbers[-1] + 1 if numbers else 1)
        self.publish(name, write, base=base, info={})
        # The newest stay, so that a number is never handed out twice.
        for number in numbers[: 1 - TRIALS_KEPT]:
            self.remove(trial_name(number))
        return name

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of an adapter; raise CorruptAdapterError when it cannot be read."""
        try:
            return Manifest(**json.loads((self.path(name) / "manifest.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CorruptAdapterError(
                f"{name}: manifest.json is damaged ({error}); roll back to another version"
            ) from error

    def verify(self, name: str, *, base: str, rank: int) -> Path:
        """Return the directory if it may be served.

        Raises CorruptAdapterError for a changed or missing file, and its AdapterMismatchError for
        another base than `base` or a rank above `rank` (the server's --max-lora-rank).
        """
        manifest, directory = self.manifest(name), self.path(name)
        for file in dict.fromkeys((*FILES, *manifest.sha256)):
            path = directory / file
            if not path.is_file() or manifest.sha256.get(file) != _sha256(path):
                raise CorruptAdapterError(
                    f"{name}: {file} is not what was published; roll back to another version"
                )
        if manifest.base != base:
            raise AdapterMismatchError(
                f"{name} was trained for {manifest.base!r} but {base!r} is served; "
                f"serve {manifest.base!r} or use another TEMPO_DATA_DIR"
            )
        if manifest.rank > rank:
            raise AdapterMismatchError(
                f"{name} is rank {manifest.rank} but vLLM was started with --max-lora-rank {rank}; "
                f"restart with --max-lora-rank {manifest.rank} (TEMPO_LORA_RANK={manifest.rank})"
            )
        return directory

    def remove(self, name: str) -> None:
        """Delete an adapter that no process serves or drains."""
        shutil.rmtree(self.path(name))

    def sweep_unfinished(self) -> None:
        """Delete what a killed worker left half written."""
        for aside in self.root.glob(".tempo-*"):
            shutil.rmtree(aside, ignore_errors=True)


def _seal(directory: Path, name: str, base: str, info: dict[str, Any]) -> Manifest:
    files = sorted(path.name for path in directory.iterdir())
    manifest = Manifest(
        name=name,
        base=base,
        rank=int(json.loads((directory / FILES[0]).read_text())["r"]),
        sha256={file: _sha256(directory / file) for file in files},
        bytes=sum((directory / file).stat().st_size for file in files),
        info=info,
    )
    (directory / "manifest.json").write_text(json.dumps(asdict(manifest), indent=1))
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
