"""What a client can do, each operation written once."""

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tempo_client._methods import C, Operations, operation
from tempo_client._protocol import PREFIX, Outcome, Request, delete, get, post
from tempo_client.errors import JobFailedError, JobTimeoutError
from tempo_client.types import Adapter, Event, File, Job, Key, Learned, Status, Training

Labeled = str | os.PathLike[str] | bytes | Iterable[Mapping[str, Any]]
"""A path, the bytes of a file, or the examples themselves."""

POLL_SECONDS = 1.0
JOBS = "/fine_tuning/jobs"


class Files(Operations[C]):
    """Labeled files: a fifth of the questions is held out and decides promotions."""

    @operation
    async def create(self, labeled: Labeled, *, dry_run: bool = False) -> File:
        """Upload a path, bytes or examples; all or nothing. A dry run checks and stores nothing.

        Raises BadRequestError, whose `line_errors` say which lines are wrong.
        """
        options = {"files": {"file": _read(labeled)}, "data": {"dry_run": str(dry_run).lower()}}
        # The server recognises a file that it has.
        return await self._ask(Request("POST", f"{PREFIX}/files", options, idempotent=True), File)

    @operation
    async def retrieve(self, file_id: str) -> File:
        """Return one file."""
        return await self._ask(get(f"/files/{file_id}"), File)

    @operation
    async def list(self) -> list[File]:
        """Return all files, newest first."""
        return await self._list("/files", File)


class Jobs(Operations[C]):
    """Training jobs: `recalibrate` is one E-step, a `round` is iterations and then the gate."""

    @operation
    async def create(
        self,
        mode: str = "round",
        *,
        training_file: str | None = None,
        max_steps: int | None = None,
        auto_promote: bool = True,
    ) -> Job:
        """Queue a job; raise ConflictError while one of its mode has not ended."""
        options = {"mode": mode, "max_steps": max_steps, "auto_promote": auto_promote}
        return await self._ask(post(JOBS, {"training_file": training_file, "tempo": options}), Job)

    @operation
    async def retrieve(self, job_id: str) -> Job:
        """Return one job."""
        return await self._ask(get(f"{JOBS}/{job_id}"), Job)

    @operation
    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; it stops at the next step and keeps what is committed."""
        return await self._ask(post(f"{JOBS}/{job_id}/cancel", {}, idempotent=True), Job)

    @operation
    async def events(self, job_id: str, *, after: str | None = None) -> list[Event]:
        """Return a job's events, oldest first, from the one that follows `after`."""
        return await self._list(f"{JOBS}/{job_id}/events", Event, after=after)

    @operation
    async def wait(
        self, job_id: str, *, timeout: float = 3600.0, poll_seconds: float = POLL_SECONDS
    ) -> Job:
        """Return the job when it has succeeded.

        Raises JobFailedError when it ends otherwise, JobTimeoutError when it goes on.
        """
        deadline = time.monotonic() + timeout
        while not (job := (await Jobs.retrieve(self, job_id))).is_finished:
            if time.monotonic() + poll_seconds > deadline:
                raise JobTimeoutError(
                    f"job {job_id} is {job.status} after {timeout:g} s; it goes on, wait again"
                )
            await self._client._sleep(poll_seconds)
        if job.status != "succeeded":
            reason = job.error.message if job.error else "no reason given"
            raise JobFailedError(f"job {job_id} has {job.status}: {reason}", job=job)
        return job

    @operation
    async def list(self) -> list[Job]:
        """Return all jobs, newest first."""
        return await self._list(JOBS, Job)


class Adapters(Operations[C]):
    """Versions `tempo-v<N>`; `tempo-v0` is the base."""

    @operation
    async def retrieve(self, adapter_id: str) -> Adapter:
        """Return one version."""
        return await self._ask(get(f"/adapters/{adapter_id}"), Adapter)

    @operation
    async def promote(
        self,
        adapter_id: str,
        *,
        expected_current: str | None = None,
        force: bool = False,
        reason: str = "",
    ) -> Adapter:
        """Make a version serve; `unacknowledged` names the processes that are late.

        Raises ConflictError when another than `expected_current` serves, and
        UnprocessableEntityError when the gate rejected the version and `force` is false.
        """
        body = {"expected_current": expected_current, "force": force, "reason": reason}
        # What was expected is no longer so after the first of two.
        request = post(f"/adapters/{adapter_id}/promote", body, idempotent=expected_current is None)
        return await self._ask(request, Adapter)

    @operation
    async def rollback(self, to: str | None = None, *, reason: str = "") -> Adapter:
        """Return to a version, or to the one that served before."""
        body = {"to": to, "reason": reason}
        # Two that name no version cancel each other.
        return await self._ask(post("/adapters/rollback", body, idempotent=to is not None), Adapter)

    @operation
    async def list(self) -> list[Adapter]:
        """Return all versions, newest first; the last is the base."""
        return await self._list("/adapters", Adapter)


class Questions(Operations[C]):
    """What users asked, and what learned from it."""

    @operation
    async def learned(self, question: str) -> Learned:
        """Return the versions that learned from a question: its id, its content hash or text."""
        request = post("/questions/learned", {"question": question}, idempotent=True)
        return await self._ask(request, Learned)

    @operation
    async def erase(self, tenant: str) -> Learned:
        """Erase a tenant's questions; return the versions that learned from them.

        The tenant is the first 16 hex digits of the sha256 of the Authorization header it sends.
        """
        return await self._ask(delete("/questions", tenant=tenant), Learned)


class Keys(Operations[C]):
    """Admin keys: each reads; the scopes `train` and `promote` let it change something."""

    @operation
    async def create(self, name: str, *, scopes: Iterable[str] = ()) -> Key:
        """Make a key; only what this returns has the secret, as `key`.

        Raises PermissionDeniedError for a scope that the caller's key lacks, and ConflictError
        where the name is taken.
        """
        # Not idempotent: the second would be refused, and the first one's secret be lost.
        return await self._ask(post("/keys", {"name": name, "scopes": [*scopes]}), Key)

    @operation
    async def delete(self, key_id: str) -> Key:
        """Revoke a key; other API processes refuse it from their next poll on."""
        return await self._ask(delete(f"/keys/{key_id}"), Key)

    @operation
    async def list(self) -> list[Key]:
        """Return all keys, newest first."""
        return await self._list("/keys", Key)


class TrainingSwitch(Operations[C]):
    """Pause and resume; both survive restarts."""

    @operation
    async def pause(self, reason: str = "") -> Training:
        """Stop training after the step under way."""
        request = post("/training/pause", {"reason": reason}, idempotent=True)
        return await self._ask(request, Training)

    @operation
    async def resume(self) -> Training:
        """Let training go on."""
        return await self._ask(post("/training/resume", {}, idempotent=True), Training)


class Deployment(Operations[C], ABC):
    """The whole: what a client offers; how it sends and waits, and whether it blocks, it says."""

    _blocks: bool

    def __init__(self, max_retries: int) -> None:
        super().__init__(self)
        self._max_retries = max_retries
        self.files = Files(self)
        self.jobs = Jobs(self)
        self.adapters = Adapters(self)
        self.questions = Questions(self)
        self.keys = Keys(self)
        self.training = TrainingSwitch(self)

    @abstractmethod
    async def _send(self, request: Request) -> Outcome:
        """Send a request; return the response, or why there is none."""

    @abstractmethod
    async def _sleep(self, seconds: float) -> None:
        """Return after so many seconds."""

    @operation
    async def status(self) -> Status:
        """Return the whole deployment at one moment."""
        return await self._ask(get("/status"), Status)

    @operation
    async def recalibrate(
        self,
        labeled: Labeled,
        *,
        wait: bool = True,
        timeout: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Upload labeled questions, a path or examples, and calibrate the critic with them."""
        file = await Files.create(self.files, labeled)
        job = await Jobs.create(self.jobs, "recalibrate", training_file=file.id)
        if not wait:
            return job
        return await Jobs.wait(self.jobs, job.id, timeout=timeout, poll_seconds=poll_seconds)


def _read(labeled: Labeled) -> tuple[str, bytes]:
    if isinstance(labeled, bytes):
        return "labeled.jsonl", labeled
    if isinstance(labeled, str | os.PathLike):
        return Path(labeled).name, Path(labeled).read_bytes()
    lines = (json.dumps(example, ensure_ascii=False, allow_nan=False) for example in labeled)
    return "labeled.jsonl", "".join(line + "\n" for line in lines).encode()
