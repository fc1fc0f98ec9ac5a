"""Follow the serving pointer: load, verify, move the alias, acknowledge; every second, for ever.

Whatever goes wrong, the version that serves goes on serving. No SQL on the event loop.
"""

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import asdict, dataclass

from sqlalchemy.exc import SQLAlchemyError

from tempo_server.bindings import Bindings
from tempo_server.context import Context
from tempo_storage import queries, versions
from tempo_storage.adapters import version_name
from tempo_storage.errors import AdapterMismatchError, CorruptAdapterError, NotFoundError

logger = logging.getLogger("vllm.tempo.follower")

FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Pointer:
    """The serving pointer as it was read."""

    version: int
    previous: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the version at a sequence does not serve here; a final one is not tried again."""

    sequence: int
    message: str
    final: bool


class Follower:
    """Keeps one process's bindings at the serving pointer."""

    def __init__(self, context: Context, bindings: Bindings) -> None:
        self._context = context
        self._bindings = bindings
        self._process_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._refusal: Refusal | None = None
        self._database_is_down = False

    async def restore(self) -> None:
        """Serve what was promoted, else what served before it, else the base; then acknowledge.

        Raises SQLAlchemyError: without the ledger a server cannot know what to serve.
        """
        await asyncio.to_thread(self._forget_processes)
        pointer = await asyncio.to_thread(self._read)
        if not await self._follow(pointer) and pointer.previous != versions.BASE:
            try:
                await self._bindings.serve(pointer.previous, previous=pointer.previous)
            except Exception as error:  # the base is left, and it needs no file
                logger.error("the previous version cannot serve either: %s", error)
        await self._acknowledge(pointer)

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            await asyncio.sleep(self._context.settings.poll_seconds)
            try:
                await self.poll()
            except SQLAlchemyError as error:
                self._note_database(down=True, reason=type(error).__name__)
            except Exception:  # a task that died would leave the server behind for ever
                logger.exception("the serving pointer could not be followed; trying again")

    async def poll(self) -> None:
        """Read the pointer, follow it if it moved, acknowledge."""
        pointer = await asyncio.to_thread(self._read)
        self._note_database(down=False)
        serves = (self._bindings.serving, self._bindings.previous)
        if serves != (pointer.version, pointer.previous):
            await self._follow(pointer)
        await self._acknowledge(pointer)

    async def _follow(self, pointer: Pointer) -> bool:
        if self._refusal and self._refusal.final and self._refusal.sequence == pointer.sequence:
            return False
        try:
            await self._bindings.serve(pointer.version, previous=pointer.previous)
        except Exception as error:  # vLLM refuses with classes of its own
            await self._refuse(pointer, error)
            return False
        self._refusal = None
        logger.info("%s is serving", version_name(pointer.version))
        return True

    async def _refuse(self, pointer: Pointer, error: Exception) -> None:
        is_known = self._refusal is not None and self._refusal.sequence == pointer.sequence
        # Files do not heal, and a failed load stalls the engine; a directory may still arrive.
        final = not isinstance(error, NotFoundError)
        self._refusal = Refusal(sequence=pointer.sequence, message=str(error), final=final)
        if is_known:
            return
        name, still = version_name(pointer.version), version_name(self._bindings.serving)
        logger.error("%s is refused, %s serves on: %s", name, still, error)
        await asyncio.to_thread(self._record_refusal, pointer, error)

    def _record_refusal(self, pointer: Pointer, error: Exception) -> None:
        damaged = isinstance(error, CorruptAdapterError)
        with self._context.sessions.begin() as s:
            if damaged and not isinstance(error, AdapterMismatchError):
                versions.mark_corrupt(s, pointer.version, str(error))
                return
            data = {"version": pointer.version, "process": self._process_id}
            queries.add_event(s, "adapter.refused", str(error), level="error", data=data)

    def _read(self) -> Pointer:
        with self._context.sessions() as s:
            row = versions.serving(s)
            return Pointer(version=row.version, previous=row.previous, sequence=row.sequence)

    async def _acknowledge(self, pointer: Pointer) -> None:
        error = self._refusal.message if self._refusal else None
        counters = asdict(self._context.counters)
        await asyncio.to_thread(self._write, pointer.sequence, error, counters)

    def _write(self, sequence: int, error: str | None, counters: dict[str, int]) -> None:
        with self._context.sessions.begin() as s:
            versions.acknowledge(
                s,
                self._process_id,
                version=self._bindings.serving,
                sequence=sequence,
                error=error,
                counters=counters,
            )

    def _forget_processes(self) -> None:
        with self._context.sessions.begin() as s:
            versions.forget_processes(s, silent_for_seconds=FORGET_SECONDS)

    def _note_database(self, *, down: bool, reason: str = "") -> None:
        if down and not self._database_is_down:
            logger.warning(
                "the database does not answer (%s); %s serves on",
                reason,
                version_name(self._bindings.serving),
            )
        elif self._database_is_down and not down:
            logger.info("the database answers again")
        self._database_is_down = down
