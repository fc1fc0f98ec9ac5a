"""Questions on local disk until the stream has them: no network on the way of a request.

    <spool>/<owner>.lock             held (flock) while the process lives
    <spool>/<owner>-<n>.active       one O_APPEND write per question
    <spool>/<owner>-<n>.jsonl        sealed: sent in batches, then deleted

At least once: a file whose sending was cut short is sent again, and rows are unique by id.
Nothing is fsynced: what was written survives kill -9, not a power cut within a few seconds.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from tempo_storage.valkey.streams import QuestionStream

logger = logging.getLogger("vllm.tempo.spool")

SEAL_SECONDS = 0.1
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 5.0
BATCH = 256


@dataclass(slots=True)
class Counters:
    """What became of the questions that reached this process."""

    captured: int = 0
    skipped: int = 0
    opted_out: int = 0
    dropped: int = 0
    spooled: int = 0
    """Captured, but not in the stream yet."""


@dataclass(eq=False)
class Spool:
    """One process's files in the spool directory; used from the event loop's thread alone."""

    directory: Path
    counters: Counters
    _: KW_ONLY
    limit_bytes: int

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._bytes = 0
        self._active: int | None = None
        self._sealed: list[Path] = []
        self._lock = _locked(self.directory / f"{self._owner}.lock")
        self._take_over()

    def append(self, question: dict[str, Any]) -> None:
        """Write a question, or count it as dropped when that cannot be done; never raise."""
        line = json.dumps(question).encode() + b"\n"
        if self._bytes + len(line) > self.limit_bytes or not self._write(line):
            self.counters.dropped += 1
            return
        self._bytes += len(line)
        self.counters.captured += 1
        self.counters.spooled += 1

    def seal(self) -> None:
        """Close the active file, if there is one, so that it can be sent."""
        if self._active is None:
            return
        os.close(self._active)
        self._active = None
        self._hand_over(self._path(self._number, "active"))

    async def send(self, stream: QuestionStream) -> None:
        """Send and delete every sealed file; raise StreamUnavailableError when Valkey is down."""
        while self._sealed:
            size, lines, damaged = await asyncio.to_thread(_send, self._sealed[0], stream)
            del self._sealed[0]
            self._bytes -= size
            self.counters.spooled -= lines
            self.counters.dropped += damaged

    def _write(self, line: bytes) -> bool:
        try:
            if self._active is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._active = os.open(self._path(self._number, "active"), flags, 0o600)
            written = os.write(self._active, line)
            if written < len(line):  # a full disk takes a part
                os.ftruncate(self._active, os.fstat(self._active).st_size - written)
            return written == len(line)
        except OSError:
            return False

    def _take_over(self) -> None:
        """Adopt the files of processes that are gone."""
        for lock in self.directory.glob("*.lock"):
            with contextlib.suppress(OSError), lock.open() as held:  # or adopted by another
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused for the living, and us
                for path in sorted(self.directory.glob(f"{lock.stem}-*")):
                    content = path.read_bytes()
                    self._bytes += len(content)
                    self.counters.spooled += len(content.splitlines())
                    self._hand_over(path)
                lock.unlink()

    def _hand_over(self, path: Path) -> None:
        sealed = self._path(self._number, "jsonl")
        path.rename(sealed)
        self._sealed.append(sealed)
        self._number += 1

    def _path(self, number: int, suffix: str) -> Path:
        return self.directory / f"{self._owner}-{number:08d}.{suffix}"


def _send(path: Path, stream: QuestionStream) -> tuple[int, int, int]:
    """Send and delete a file; return its bytes, its lines, and how many of them are damaged."""
    content = path.read_bytes() if path.exists() else b""  # an operator may have cleared it
    questions = list(_parse(content))
    for start in range(0, len(questions), BATCH):
        stream.append(questions[start : start + BATCH])
    path.unlink(missing_ok=True)
    lines = len(content.splitlines())
    return len(content), lines, lines - len(questions)


def _parse(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # a line that a power cut left half written
            yield json.loads(line)


def _locked(path: Path) -> int:
    # Locked before it has its name: nobody may find it unlocked while its process lives. The
    # descriptor is never closed; it goes with the process.
    unnamed = path.with_suffix(".new")
    lock = os.open(unnamed, os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path)
    return lock


async def drain(spool: Spool, stream: QuestionStream) -> None:
    """Seal and send for ever; while Valkey is down, wait a little longer each time."""
    retry_seconds = FIRST_RETRY_SECONDS
    while True:
        try:
            spool.seal()
            await spool.send(stream)
        except Exception as error:  # a task that died would leave every question here
            if retry_seconds == FIRST_RETRY_SECONDS:
                logger.warning("questions wait in the spool: %s", error)
            await asyncio.sleep(retry_seconds)
            retry_seconds = min(retry_seconds * 2, LONGEST_RETRY_SECONDS)
            continue
        if retry_seconds != FIRST_RETRY_SECONDS:
            logger.info("the stream answers again, the spool is sent")
            retry_seconds = FIRST_RETRY_SECONDS
        await asyncio.sleep(SEAL_SECONDS)
