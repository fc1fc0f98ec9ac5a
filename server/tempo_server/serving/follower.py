"""Follow the serving pointer: load the version, probe it, move the aliases, acknowledge.

The follower polls for ever. If a version cannot be loaded, the old one goes on serving. SQL runs in
threads, never on the event loop.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tempo_server.capture.spool import Counters
from tempo_server.context import Context
from tempo_server.keys import read_keys, take_uses
from tempo_server.serving.bindings import Bindings
from tempo_server.serving.probe import Finding, Probe, raise_if_failed
from tempo_storage import ledger
from tempo_storage.adapters import BASE, version_name
from tempo_storage.errors import CorruptAdapterError, NotFoundError
from tempo_storage.failures import trace
from tempo_storage.ledger.models import Adapter, Serving

logger = logging.getLogger("vllm.tempo.serving")


@dataclass(eq=False)
class Follower:
    """Keeps one process's bindings at the serving pointer; reports `counters` to the ledger."""

    context: Context
    bindings: Bindings
    probe: Probe
    counters: Counters

    def __post_init__(self) -> None:
        self._process_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._probed: dict[int, Any] = {}  # version -> the LoRARequest of the load that was probed
        self._acknowledged: Serving | None = None
        self._errors: dict[int, Exception] = {}  # the pointer's sequence -> why it is not followed

    async def restore(self) -> None:
        """Serve the promoted version, else the one before it, else the base; then acknowledge.

        Raises SQLAlchemyError: without the ledger a server cannot know which version to serve.
        """
        silent = ledger.versions.SILENT_SECONDS
        await self._write(ledger.versions.forget_processes, silent_for_seconds=silent)
        pointer = await asyncio.to_thread(self._read)
        if not await self._follow(pointer) and pointer.previous != BASE:
            try:
                await self._serve(pointer.previous, previous=pointer.previous)
            except Exception as error:  # the base still serves, and it needs no file
                logger.error("the previous version cannot serve either: %s", error)
        await self._acknowledge(pointer)

    async def run(self) -> None:
        """Poll for ever; log once when the database stops answering, and when it answers again."""
        database_answers = True
        while True:
            await asyncio.sleep(self.context.settings.poll_seconds)
            try:
                await self.poll()
            except SQLAlchemyError as error:
                if database_answers:
                    self._log_lost_database(error)
                database_answers = False
                continue
            except Exception as error:  # it would end the task, and nobody would follow
                logger.error("the serving pointer could not be followed: %s", trace(error))
            if not database_answers:
                logger.info("the database answers again")
            database_answers = True

    async def poll(self) -> None:
        """Check the files in use, read the pointer, follow it if it moved, acknowledge."""
        await self.bindings.check_files()
        pointer = await asyncio.to_thread(self._read)
        if (self.bindings.serving, self.bindings.previous) != (pointer.version, pointer.previous):
            await self._follow_alive(pointer)
        await self._acknowledge(pointer)

    async def _follow_alive(self, pointer: Serving) -> None:
        """Follow, which may take a while, and meanwhile go on acknowledging the serving version.

        Stops following when the pointer moves again.
        """
        following = asyncio.create_task(self._follow(pointer))
        seconds = self.context.settings.poll_seconds
        try:
            while not (await asyncio.wait({following}, timeout=seconds))[0]:
                if (await asyncio.to_thread(self._read)).sequence != pointer.sequence:
                    break
                if self._acknowledged is not None:
                    await self._acknowledge(self._acknowledged)
        finally:
            following.cancel()  # has no effect if it is done
            await asyncio.wait({following})
        if not following.cancelled():
            following.result()

    async def _follow(self, pointer: Serving) -> bool:
        """Serve the pointer's version; return False, with the error noted, if that fails."""
        error = self._errors.get(pointer.sequence)
        # An error is not retried, because each failed load stalls the engine. Only a missing
        # directory may still arrive.
        if error is not None and not isinstance(error, NotFoundError):
            return False
        try:
            await self._serve(pointer.version, previous=pointer.previous)
        except SQLAlchemyError:
            raise
        except Exception as error:  # vLLM raises classes of its own
            await self._note_error(pointer, error)
            return False
        self._errors.clear()
        logger.info("%s is serving", version_name(pointer.version))
        return True

    async def _serve(self, version: int, *, previous: int) -> None:
        if version not in (BASE, self.bindings.serving):
            await self._load_and_probe(version)
        await self.bindings.serve(version, previous=previous)

    async def _load_and_probe(self, version: int) -> None:
        """Load a version and probe it; raise UnservableAdapterError for a bad finding."""
        name = version_name(version)
        request = await self.bindings.load(name)
        if self._probed.get(version) is request:
            return
        finding = await self.probe.run(name, request)
        logger.info("%s: the probe says %s: %s", name, finding.verdict, finding)
        await self._write(self._record_finding, version=version, finding=finding)
        raise_if_failed(name, finding)
        self._probed[version] = request

    def _record_finding(self, s: Session, version: int, finding: Finding) -> None:
        data = {"version": version, "process": self._process_id, **asdict(finding)}
        row = s.get(Adapter, version, with_for_update=True)
        if row is not None and row.status != "corrupt":  # another process's refusal stays
            row.report = row.report | {"probe": data}
        if finding.verdict == "unproven":
            message = f"{version_name(version)} serves unproven: {finding.reason}"
            ledger.events.add(s, "adapter.unproven", message, level="warning", data=data)

    async def _note_error(self, pointer: Serving, error: Exception) -> None:
        """Remember why the pointer's version is refused; log and record it the first time."""
        is_repeated = pointer.sequence in self._errors
        self._errors = {pointer.sequence: error}
        if is_repeated:
            return
        name = version_name(pointer.version)
        serving = version_name(self.bindings.serving)
        logger.error("%s is refused, %s goes on serving: %s", name, serving, error)
        await self._write(self._record_refusal, version=pointer.version, error=error)

    def _record_refusal(self, s: Session, version: int, error: Exception) -> None:
        if isinstance(error, CorruptAdapterError):
            ledger.versions.mark_corrupt(s, version, str(error))
            return
        data = {"version": version, "process": self._process_id}
        ledger.events.add(s, "adapter.refused", str(error), level="error", data=data)

    async def _acknowledge(self, pointer: Serving) -> None:
        error = self._errors.get(pointer.sequence)
        self._acknowledged = pointer
        await self._write(
            ledger.versions.acknowledge,
            process_id=self._process_id,
            version=self.bindings.serving,
            sequence=pointer.sequence,
            error=None if error is None else str(error),
            counters=asdict(self.counters),
            held=self.bindings.held(),
        )
        if uses := take_uses(self.context):
            await self._write(ledger.keys.record_uses, uses=uses)

    async def _write(self, function: Callable[..., object], **arguments: Any) -> None:
        """Call `function(s, **arguments)` in a transaction of the ledger, in a thread."""

        def write() -> None:
            with self.context.sessions.begin() as s:
                function(s, **arguments)

        await asyncio.to_thread(write)

    def _read(self) -> Serving:
        """Return the serving pointer; read the keys too, because another process may revoke one."""
        read_keys(self.context)
        with self.context.sessions() as s:
            return ledger.versions.serving(s)

    def _log_lost_database(self, error: SQLAlchemyError) -> None:
        reason = type(error).__name__
        serving = version_name(self.bindings.serving)
        logger.warning("the database does not answer (%s); %s goes on serving", reason, serving)
