"""The spool: files that hold questions until Valkey has them, so that no request waits for Valkey.

    <spool>/<owner>.lock             locked (flock) while the process lives
    <spool>/<owner>-<n>.active       gets one O_APPEND write per question
    <spool>/<owner>-<n>.jsonl        is sealed: it is sent in batches, then deleted

Each question arrives at least once: a file is sent again if the sending was cut short, and the
ledger's rows are unique by id. Nothing is fsynced: questions survive kill -9, but not a power cut
within a few seconds.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from tempo_storage.failures import reason
from tempo_storage.ledger import erasures
from tempo_storage.valkey.streams import QuestionStream

logger = logging.getLogger("vllm.tempo.capture")

SEAL_SECONDS = 0.1
FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 5.0
BATCH = 256
DAY_SECONDS = 86_400.0


@dataclass(slots=True)
class Counters:
    """Counts of the questions that reached this process, by what happened to them."""

    captured: int = 0
    skipped: int = 0
    opted_out: int = 0
    dropped: int = 0
    over_limit: int = 0
    """Not kept, because the tenant asked too many in a minute."""
    spooled: int = 0
    """Captured, but not in the stream yet."""
    erased_to: float = 0.0
    """Time of the last erasure of a tenant's questions that has reached the spool."""


@dataclass(eq=False)
class Spool:
    """One process's files in the spool directory; only the event loop's thread may use it."""

    directory: Path
    _: KW_ONLY
    limit_bytes: int
    keep_days: float = 0.0
    """Days after which a question that Valkey has not taken is deleted; 0: never."""

    def __post_init__(self) -> None:
        self.counters = Counters()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._files = asyncio.Lock()  # sending and erasing read the same files
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._bytes = 0
        self._active: int | None = None
        self._sealed: list[Path] = []
        self._lock = _locked(self.directory / f"{self._owner}.lock")
        self._adopt_orphans()

    def append(self, question: dict[str, Any]) -> None:
        """Write a question; count it as dropped if the disk or the limit forbids; never raise."""
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
        self._add_sealed(self._path(self._number, "active"))

    async def send(self, stream: QuestionStream) -> None:
        """Send and delete every sealed file; raise StreamUnavailableError when Valkey is down."""
        while self._sealed:
            async with self._files:
                size, lines, damaged = await asyncio.to_thread(_send, self._sealed[0], stream)
                del self._sealed[0]
                self._forget(size, lines)
            self.counters.dropped += damaged

    async def erase(self, times: erasures.Times) -> None:
        """Remove the questions that are older than the erasure of their tenant's questions."""
        self.seal()
        async with self._files:
            for path in [*self._sealed]:
                self._forget(*await asyncio.to_thread(_erase, path, times))
        self.counters.erased_to = max(times.values())

    def expire(self) -> None:
        """Delete the sealed files that are older than `keep_days`; count their questions."""
        before = time.time() - self.keep_days * DAY_SECONDS
        while self.keep_days and self._sealed and _written_at(self._sealed[0]) < before:
            path = self._sealed.pop(0)
            content = path.read_bytes()
            path.unlink()
            lines = len(content.splitlines())
            self._forget(len(content), lines)
            self.counters.dropped += lines

    def _forget(self, size: int, lines: int) -> None:
        self._bytes -= size
        self.counters.spooled -= lines

    def _write(self, line: bytes) -> bool:
        try:
            if self._active is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._active = os.open(self._path(self._number, "active"), flags, 0o600)
            written = os.write(self._active, line)
            if written < len(line):  # a full disk takes a part of the line
                os.ftruncate(self._active, os.fstat(self._active).st_size - written)
            return written == len(line)
        except OSError:
            return False

    def _adopt_orphans(self) -> None:
        """Take over the files of processes that have ended."""
        for path in self.directory.glob("*.lock"):
            # Skip a lock that its owner still holds, and a file that another process has already
            # taken.
            with contextlib.suppress(OSError), path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for orphan in sorted(self.directory.glob(f"{path.stem}-*")):
                    content = orphan.read_bytes()
                    self._bytes += len(content)
                    self.counters.spooled += len(content.splitlines())
                    self._add_sealed(orphan)
                path.unlink()

    def _add_sealed(self, path: Path) -> None:
        sealed = self._path(self._number, "jsonl")
        path.rename(sealed)
        self._sealed.append(sealed)
        self._number += 1

    def _path(self, number: int, suffix: str) -> Path:
        return self.directory / f"{self._owner}-{number:08d}.{suffix}"


def _send(path: Path, stream: QuestionStream) -> tuple[int, int, int]:
    """Send and delete a file; return its bytes, its lines, and the number of damaged lines."""
    content = path.read_bytes() if path.exists() else b""  # an operator may have deleted it
    questions = list(_parse(content))
    for start in range(0, len(questions), BATCH):
        stream.append(questions[start : start + BATCH])
    path.unlink(missing_ok=True)
    lines = len(content.splitlines())
    return len(content), lines, lines - len(questions)


def _erase(path: Path, times: erasures.Times) -> tuple[int, int]:
    """Write a file anew without the erased questions; return the bytes and lines that are gone.

    A damaged line goes, too: nobody knows whose it is.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if any(not erasures.is_erased(q, times) for q in _parse(line))]
    if len(kept) == len(lines):
        return 0, 0
    aside = path.with_suffix(".new")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(kept)
    aside.replace(path)
    return sum(map(len, lines)) - sum(map(len, kept)), len(lines) - len(kept)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # an operator may have deleted it; it is passed over when it is sent
        return math.inf


def _parse(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # a power cut left the line half written
            yield json.loads(line)


def _locked(path: Path) -> int:
    # The file is locked before it gets its name, so that nobody finds it unlocked while its process
    # lives. The descriptor is never closed; it ends with the process.
    unnamed = path.with_suffix(".new")
    lock = os.open(unnamed, os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path)
    return lock


async def send_for_ever(spool: Spool, stream: QuestionStream) -> None:
    """Seal and send for ever; while Valkey is down, wait a little longer after each attempt."""
    retry_seconds = FIRST_RETRY_SECONDS
    while True:
        try:
            spool.seal()
            spool.expire()
            await spool.send(stream)
        except Exception as error:  # an exception would end the task, and questions would stay here
            if retry_seconds == FIRST_RETRY_SECONDS:
                logger.warning("questions wait in the spool: %s", reason(error))
            await asyncio.sleep(retry_seconds)
            retry_seconds = min(retry_seconds * 2, MAX_RETRY_SECONDS)
            continue
        if retry_seconds != FIRST_RETRY_SECONDS:
            logger.info("Valkey answers again, and the spool has been sent")
            retry_seconds = FIRST_RETRY_SECONDS
        await asyncio.sleep(SEAL_SECONDS)
