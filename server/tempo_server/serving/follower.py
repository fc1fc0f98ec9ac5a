"""Follow the serving pointer: load, probe, move the alias, acknowledge; every second, for ever.

Whatever goes wrong, the version that serves goes on serving. No SQL on the event loop.
"""

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tempo_server.context import Context
from tempo_server.keys import read_keys
from tempo_server.serving.bindings import Bindings
from tempo_server.serving.probe import Finding, Probe, refuse
from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name
from tempo_storage.errors import CorruptAdapterError, NotFoundError
from tempo_storage.ledger.models import Adapter

logger = logging.getLogger("vllm.tempo.follower")


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

    def __init__(self, context: Context, bindings: Bindings, probe: Probe) -> None:
        self._context = context
        self._bindings = bindings
        self._probe = probe
        self._probed: dict[int, Any] = {}  # version -> the LoRARequest of the load that was probed
        self._unproven = 0
        self._acknowledged: Pointer | None = None
        self._process_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._refusal: Refusal | None = None
        self._trouble = ""  # of the database, the last one told

    async def restore(self) -> None:
        """Serve what was promoted, else what served before it, else the base; then acknowledge.

        Raises SQLAlchemyError: without the ledger a server cannot know what to serve.
        """
        await asyncio.to_thread(self._forget_processes)
        pointer = await asyncio.to_thread(self._read)
        if not await self._follow(pointer) and pointer.previous != BASE:
            try:
                await self._serve(pointer.previous, previous=pointer.previous)
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
                self._note_database(type(error).__name__)
            except Exception:  # a task that died would leave the server behind for ever
                logger.exception("the serving pointer could not be followed; trying again")

    async def poll(self) -> None:
        """Read the pointer, follow it if it moved, acknowledge."""
        pointer = await asyncio.to_thread(self._read)
        self._note_database()
        serves = (self._bindings.serving, self._bindings.previous)
        if serves != (pointer.version, pointer.previous):
            await self._follow_alive(pointer)
        await self._acknowledge(pointer)

    async def _follow_alive(self, pointer: Pointer) -> None:
        """Follow, which may take a while, and go on acknowledging what serves until then.

        A pointer that has moved on by then is given up.
        """
        following = asyncio.create_task(self._follow(pointer))
        beat = self._context.settings.poll_seconds
        try:
            while not (await asyncio.wait({following}, timeout=beat))[0]:
                if await asyncio.to_thread(self._read) != pointer:
                    break
                if self._acknowledged is not None:
                    await self._acknowledge(self._acknowledged)
        finally:
            following.cancel()  # no effect on what is done
            await asyncio.wait({following})
        if not following.cancelled():
            following.result()

    async def _follow(self, pointer: Pointer) -> bool:
        if self._refusal and self._refusal.final and self._refusal.sequence == pointer.sequence:
            return False
        try:
            await self._serve(pointer.version, previous=pointer.previous)
        except SQLAlchemyError:
            raise
        except Exception as error:  # vLLM refuses with classes of its own
            await self._refuse(pointer, error)
            return False
        self._refusal = None
        logger.info("%s is serving", version_name(pointer.version))
        return True

    async def _serve(self, version: int, *, previous: int) -> None:
        if version not in (BASE, self._bindings.serving):
            await self._prove(version)
        await self._bindings.serve(version, previous=previous)

    async def _prove(self, version: int) -> None:
        """Load a version and probe it; raise ProbeFailedError when it is not what was trained."""
        name = version_name(version)
        request = await self._bindings.load(name)
        if self._probed.get(version) is request:
            return
        finding = await self._probe.run(name, request)
        logger.info("%s: the probe says %s: %s", name, finding.verdict, finding)
        self._unproven += finding.verdict == "unproven"
        await asyncio.to_thread(self._record_finding, version, finding)
        refuse(name, finding)
        self._probed[version] = request

    def _record_finding(self, version: int, finding: Finding) -> None:
        data = {"version": version, "process": self._process_id, **asdict(finding)}
        with self._context.sessions.begin() as s:
            row = s.get(Adapter, version, with_for_update=True)
            if row is not None and row.status != "corrupt":  # another process's refusal stays
                row.report = row.report | {"probe": data}
            if finding.verdict == "unproven":
                message = f"{version_name(version)} serves unproven: {finding.reason}"
                ledger.events.add(s, "adapter.unproven", message, level="warning", data=data)

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
        with self._context.sessions.begin() as s:
            if isinstance(error, CorruptAdapterError):
                ledger.versions.mark_corrupt(s, pointer.version, str(error))
                return
            data = {"version": pointer.version, "process": self._process_id}
            ledger.events.add(s, "adapter.refused", str(error), level="error", data=data)

    def _read(self) -> Pointer:
        read_keys(self._context)  # a key that was revoked through another process opens nothing
        with self._context.sessions() as s:
            row = ledger.versions.serving(s)
            return Pointer(row.version, row.previous, row.sequence)

    async def _acknowledge(self, pointer: Pointer) -> None:
        refusal = self._refusal
        error = refusal.message if refusal and refusal.sequence == pointer.sequence else None
        counters: dict[str, Any] = asdict(self._context.counters) | {"unproven": self._unproven}
        counters["held"] = self._bindings.held()
        self._acknowledged = pointer
        await asyncio.to_thread(self._write, pointer.sequence, error, counters)

    def _write(self, sequence: int, error: str | None, counters: dict[str, Any]) -> None:
        with self._context.sessions.begin() as s:
            ledger.versions.acknowledge(
                s,
                self._process_id,
                version=self._bindings.serving,
                sequence=sequence,
                error=error,
                counters=counters,
            )

    def _forget_processes(self) -> None:
        with self._context.sessions.begin() as s:
            ledger.versions.forget_processes(s, silent_for_seconds=ledger.versions.SILENT_SECONDS)

    def _note_database(self, trouble: str = "") -> None:
        if trouble and not self._trouble:
            serving = version_name(self._bindings.serving)
            logger.warning("the database does not answer (%s); %s serves on", trouble, serving)
        elif self._trouble and not trouble:
            logger.info("the database answers again")
        self._trouble = trouble
