"""Immutable adapter directories: written aside, hashed, fsynced, renamed; verified at each load.

The ledger keeps the digests of the files (`ledger/published.py`), and a load compares with those.

    <root>/tempo-v7/adapter_config.json adapter_model.safetensors probe.json manifest.json

`tempo-v<N>` is version N, `tempo-t<N>` is a trial: the policy at one iteration of a round. Once the
ledger has a version, its directory never changes and its name is never used again, because vLLM
keys its prefix cache by name and path, and reads an evicted adapter from disk again in the middle
of a step. The same holds for every trial.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tempo_storage.directories import written_whole
from tempo_storage.errors import (
    AdapterMismatchError,
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
)

BASE = 0  # version 0 is the base model without an adapter
BASE_NAME = "tempo-v0"
# One name for each number: neither tempo-v01 nor a number in other digits.
NAME = re.compile(r"tempo-([vt])(0|[1-9][0-9]{0,8})")
FIRST_ID = {"v": 1_000_000, "t": 1_000_000_000}
TRIALS_KEPT = 3

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE)
PROBE_FILE = "probe.json"  # the adapter's effect in the trainer; a server compares its own with it
MANIFEST_FILE = "manifest.json"

Fingerprint = list[tuple[str | int, ...]]


def version_name(version: int) -> str:
    """Return the name under which vLLM serves a version; version 0 is the base."""
    return f"tempo-v{version}"


def trial_name(number: int) -> str:
    """Return the name of a trial."""
    return f"tempo-t{number}"


def version_of(name: str) -> int:
    """Return N of `tempo-v<N>`; raise InvalidInputError for any other name."""
    match = NAME.fullmatch(name)
    if match is None or match[1] != "v":
        raise InvalidInputError(f"{name!r} is no adapter version; write tempo-v<number>")
    return int(match[2])


def lora_int_id(name: str) -> int:
    """Return vLLM's integer id of an adapter: unique per name, the same in every process."""
    kind, number = _match(name).groups()
    return FIRST_ID[kind] + int(number)


def _match(name: str) -> re.Match[str]:
    match = NAME.fullmatch(name)
    if match is None:
        raise InvalidInputError(f"{name!r} is no adapter name; write tempo-v<number>")
    return match


Count = Annotated[int, Field(ge=0, lt=2**63)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=255)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The sha256 of each file in an adapter's directory, and the base and rank of the adapter."""

    # A file of another program may have anything here. Version 0.1 wrote `info`, which is ignored.
    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")

    name: str
    base: str
    rank: Count
    sha256: dict[FileName, str]
    bytes: Count

    @property
    def text(self) -> str:
        """The content of the manifest's own file."""
        return json.dumps(asdict(self), indent=1)

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of every file of the adapter, the manifest's own included."""
        own = hashlib.sha256(self.text.encode()).hexdigest()
        return self.sha256 | {MANIFEST_FILE: own}


MANIFEST = TypeAdapter(Manifest)


class AdapterStore:
    """The adapter directories under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return the directory of an adapter; raise NotFoundError if there is none."""
        if NAME.fullmatch(name) is None or not (self.root / name).is_dir():
            raise _unknown(self.root, name)
        return self.root / name

    def names(self) -> list[str]:
        """Return the names of all complete adapters."""
        paths = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path.name for path in paths if NAME.fullmatch(path.name))

    def publish(self, name: str, write: Callable[[Path], None], *, base: str) -> Manifest:
        """Make an adapter visible at once and whole; `write(directory)` writes its files.

        It replaces a directory that a killed worker left under this name. Nobody can have loaded
        that one: the ledger names an adapter only after its directory is complete.
        """
        _match(name)
        with written_whole(self.root / name) as hidden:
            write(hidden)
            manifest = _write_manifest(hidden, name, base)
        return manifest

    def publish_trial(self, write: Callable[[Path], None], *, base: str) -> Manifest:
        """Publish a trial under the next number, delete the oldest trials, return its manifest."""
        numbers = sorted(int(n.removeprefix("tempo-t")) for n in self.names() if "-t" in n)
        name = trial_name(numbers[-1] + 1 if numbers else 1)
        manifest = self.publish(name, write, base=base)
        # The newest stay, so that no number is used twice.
        for number in numbers[: 1 - TRIALS_KEPT]:
            self.remove(trial_name(number))
        return manifest

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of an adapter; raise CorruptAdapterError if it cannot be read."""
        try:
            return MANIFEST.validate_json((self.path(name) / MANIFEST_FILE).read_bytes())
        except ValidationError as error:
            first = error.errors(include_input=False)[0]  # the input may be as long as the file
            place = ".".join(map(str, first["loc"])) or "the file"
            raise _damaged(name, f"{place}: {first['msg']}") from error
        except OSError as error:
            raise _damaged(name, str(error)) from error

    def fingerprint(self, name: str) -> Fingerprint:
        """Return numbers that change when a file of an adapter is written, replaced or added.

        They cost no reading of the files; there are none if the files cannot be listed. Raises
        NotFoundError for an unknown adapter.
        """
        directory = self.path(name)
        try:
            stats = [(path.name, path.lstat()) for path in sorted(directory.iterdir())]
        except FileNotFoundError as error:  # it is deleted at this moment
            raise _unknown(self.root, name) from error
        except OSError:
            return []
        return [(n, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in stats]

    def digests(self, name: str) -> dict[str, str]:
        """Return the sha256 of each file that an adapter has now.

        Raises NotFoundError for an unknown adapter, CorruptAdapterError for an entry that is no
        plain file or cannot be read.
        """
        directory = self.path(name)
        if directory.is_symlink():
            raise CorruptAdapterError(
                f"{name}: {directory} is a link; roll back to another version"
            )
        digests = {}
        path = directory
        try:
            for path in directory.iterdir():
                digests[path.name] = _sha256(path)
        except OSError as error:
            raise _unreadable(name, path, error) from error
        return digests

    def verify(self, name: str, published: Mapping[str, str], *, base: str, rank: int) -> Path:
        """Return the directory of an adapter that a server of `base` may serve.

        `published` has the sha256 of each file as the ledger knows it, and `rank` is the server's
        --max-lora-rank. Raises CorruptAdapterError for a changed, missing or added file,
        AdapterMismatchError for another base or a higher rank.
        """
        found = self.digests(name)
        changed = {file for file, _ in found.items() ^ published.items()}
        if changed:
            raise CorruptAdapterError(
                f"{name}: {', '.join(sorted(changed))} is not what was published; "
                "roll back to another version"
            )
        manifest = self.manifest(name)
        directory = self.path(name)
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
        """Delete an adapter. No process may serve it or still answer requests with it.

        It goes at once: a server must not take a half-deleted directory for a changed one.
        """
        hidden = self.root / f".{name}-removed"
        shutil.rmtree(hidden, ignore_errors=True)
        self.path(name).rename(hidden)
        shutil.rmtree(hidden)

    def sweep_unfinished(self) -> None:
        """Delete the hidden directories that a killed worker left unfinished."""
        for hidden in self.root.glob(".tempo-*"):
            shutil.rmtree(hidden, ignore_errors=True)


def _unknown(root: Path, name: str) -> NotFoundError:
    return NotFoundError(f"no adapter {name!r} under {root}")


def _unreadable(name: str, path: Path, error: OSError) -> CorruptAdapterError:
    return CorruptAdapterError(
        f"{name}: {path.name} is no file that can be read ({error.strerror}); "
        "roll back to another version"
    )


def _damaged(name: str, reason: str) -> CorruptAdapterError:
    return CorruptAdapterError(
        f"{name}: {MANIFEST_FILE} is damaged ({reason}); roll back to another version"
    )


def _write_manifest(directory: Path, name: str, base: str) -> Manifest:
    files = sorted(path.name for path in directory.iterdir())
    manifest = Manifest(
        name=name,
        base=base,
        rank=int(json.loads((directory / CONFIG_FILE).read_text())["r"]),
        sha256={file: _sha256(directory / file) for file in files},
        bytes=sum((directory / file).stat().st_size for file in files),
    )
    (directory / MANIFEST_FILE).write_text(manifest.text)
    return manifest


def _sha256(path: Path) -> str:
    # A link would lead to a file that may change, and opening a pipe would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
