"""The operations on each resource, written once for both clients."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tempo_client._datasets import json_lines
from tempo_client._json_line import json_line, rows_of
from tempo_client._methods import Operations, operation
from tempo_client._protocol import PREFIX, C, Connection, Request, delete, get, post, put
from tempo_client.errors import JobFailedError, JobTimeoutError
from tempo_client.types import (
    Adapter,
    AuditRecord,
    Checkpoint,
    Deletion,
    Event,
    File,
    Job,
    Key,
    Label,
    Learned,
    Status,
    Tenant,
    Training,
    Verdicts,
)

Labeled = str | os.PathLike[str] | bytes | Iterable[Mapping[str, Any]]
"""Labeled questions: the path of a file or of a `datasets` directory, bytes, or mappings.

A directory needs the extra `files`. A pandas DataFrame counts as the mappings of its rows, and
values of numpy and pandas become those of JSON.
"""

POLL_SECONDS = 1.0
DAY_SECONDS = 24 * 3600
JOBS = "/fine_tuning/jobs"


class Files(Operations[C]):
    """Labeled files. A fifth of their questions is held out and decides promotions."""

    @operation
    async def create(self, labeled: Labeled, *, dry_run: bool = False) -> File:
        """Upload labeled questions; the server stores all of them or none.

        A dry run checks them and stores nothing. Raises BadRequestError for bad lines; its
        `line_errors` lists them. Raises DatasetError for a directory that cannot be read.
        """
        options = {
            "files": {"file": _filename_and_content(labeled)},
            "data": {"dry_run": str(dry_run).lower()},
        }
        # Idempotent: the server recognises a file that it already has.
        return await self._call(Request("POST", f"{PREFIX}/files", options, idempotent=True), File)

    @operation
    async def retrieve(self, file_id: str) -> File:
        """Return one file."""
        return await self._call(get(f"/files/{file_id}"), File)

    @operation
    async def list(self) -> list[File]:
        """Return all files, newest first."""
        return await self._list("/files", File)

    @operation
    async def delete(self, file_id: str) -> Deletion:
        """Delete a file with its questions, except those that another file labels, too."""
        return await self._call(delete(f"/files/{file_id}"), Deletion)


class Labels(Operations[C]):
    """Labeled questions one by one. An id is a content hash, or a beginning that is unique."""

    @operation
    async def replace(self, label_id: str, answer: Any, *, verifier: str | None = None) -> Label:
        """Replace a question's answer, or its list of equally right ones; its split stays.

        Raises BadRequestError for an answer that the verifier cannot read.
        """
        body = {"answer": answer, "verifier": verifier}
        return await self._call(put(f"/labels/{label_id}", body), Label)

    @operation
    async def remove(self, label_id: str) -> Deletion:
        """Remove a label; nothing trains on it or is measured by it any more."""
        return await self._call(delete(f"/labels/{label_id}"), Deletion)

    @operation
    async def verify(
        self, responses: Mapping[str, Iterable[str]], *, held_out: bool = False
    ) -> Verdicts:
        """Verify responses to labeled questions, given by the label's id.

        Raises BadRequestError for a held-out label unless `held_out` is true.
        """
        texts = {label_id: [*texts] for label_id, texts in responses.items()}
        body = {"responses": texts, "held_out": held_out}
        request = post("/labels/verdicts", body, idempotent=True)
        return await self._call(request, Verdicts)

    @operation
    async def list(
        self, *, split: str | None = None, file: str | None = None, held_out: bool = False
    ) -> list[Label]:
        """Return the labels, or those of a split and of a file.

        Held-out ones are among them only if `held_out` is true.
        """
        filters = {"split": split, "file": file, "held_out": "true" if held_out else None}
        query = {name: value for name, value in filters.items() if value is not None}
        return await self._list("/labels", Label, filters=query)


class Jobs(Operations[C]):
    """Training jobs. Mode `recalibrate` fits the critic; `round` runs iterations, then the gate."""

    @operation
    async def create(
        self,
        mode: str = "round",
        *,
        training_file: str | None = None,
        max_steps: int | None = None,
        auto_promote: bool = True,
    ) -> Job:
        """Queue a job; raise ConflictError while another job of its mode has not ended.

        Without `auto_promote` a version waits for an operator; this needs the scope `promote`.
        """
        options = {"mode": mode, "max_steps": max_steps, "auto_promote": auto_promote}
        return await self._call(post(JOBS, {"training_file": training_file, "tempo": options}), Job)

    @operation
    async def retrieve(self, job_id: str) -> Job:
        """Return one job."""
        return await self._call(get(f"{JOBS}/{job_id}"), Job)

    @operation
    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; it stops at the next step and keeps its committed iterations."""
        return await self._call(post(f"{JOBS}/{job_id}/cancel", {}, idempotent=True), Job)

    @operation
    async def pause(self, job_id: str) -> Job:
        """Pause a job after its current step, and with it all training."""
        return await self._call(post(f"{JOBS}/{job_id}/pause", {}, idempotent=True), Job)

    @operation
    async def resume(self, job_id: str) -> Job:
        """Resume a job, and with it all training."""
        return await self._call(post(f"{JOBS}/{job_id}/resume", {}, idempotent=True), Job)

    @operation
    async def events(self, job_id: str, *, after: str | None = None) -> list[Event]:
        """Return a job's events, oldest first; with `after`, an event's id, only later ones."""
        events = await self._list(f"{JOBS}/{job_id}/events", Event, until=after)
        return events[::-1]

    @operation
    async def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Return a job's committed iterations with their metrics, newest first."""
        return await self._list(f"{JOBS}/{job_id}/checkpoints", Checkpoint)

    @operation
    async def wait(
        self, job_id: str, *, timeout: float = 3600.0, poll_seconds: float = POLL_SECONDS
    ) -> Job:
        """Return the job when it has succeeded.

        Raises JobFailedError when it ends otherwise, and JobTimeoutError when it has not ended
        after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        job = await Jobs.retrieve(self, job_id)
        while not job.is_finished:
            if time.monotonic() + poll_seconds > deadline:
                raise JobTimeoutError(
                    f"job {job_id} is {job.status} after {timeout:g} s; it goes on, wait again"
                )
            await self._client._sleep(poll_seconds)
            job = await Jobs.retrieve(self, job_id)
        if job.status != "succeeded":
            reason = job.error.message if job.error else "no reason given"
            raise JobFailedError(f"job {job_id} ended as {job.status}: {reason}", job=job)
        return job

    @operation
    async def list(self) -> list[Job]:
        """Return all jobs, newest first."""
        return await self._list(JOBS, Job)


class Adapters(Operations[C]):
    """Adapter versions `tempo-v<N>`; `tempo-v0` is the base."""

    @operation
    async def retrieve(self, adapter_id: str) -> Adapter:
        """Return one version."""
        return await self._call(get(f"/adapters/{adapter_id}"), Adapter)

    @operation
    async def promote(
        self,
        adapter_id: str,
        *,
        expected_current: str | None = None,
        force: bool = False,
        reason: str = "",
    ) -> Adapter:
        """Make a version serve; `unacknowledged` names API processes that do not serve it yet.

        Raises ConflictError when a version other than `expected_current` serves, and
        UnprocessableEntityError when the gate rejected the version and `force` is false.
        """
        body = {"expected_current": expected_current, "force": force, "reason": reason}
        # With `expected_current` not idempotent: the first of two makes the second one's false.
        request = post(f"/adapters/{adapter_id}/promote", body, idempotent=expected_current is None)
        return await self._call(request, Adapter)

    @operation
    async def rollback(self, to: str | None = None, *, reason: str = "") -> Adapter:
        """Return to a version, by default to the one that served before."""
        body = {"to": to, "reason": reason}
        # Without `to` not idempotent: a second one would go back once more.
        request = post("/adapters/rollback", body, idempotent=to is not None)
        return await self._call(request, Adapter)

    @operation
    async def delete(self, adapter_id: str) -> Deletion:
        """Delete a version's files; it can never serve again.

        Raises ConflictError for a version that serves or to which a rollback may return.
        """
        return await self._call(delete(f"/models/{adapter_id}"), Deletion)

    @operation
    async def list(self) -> list[Adapter]:
        """Return all versions, newest first; the last is the base."""
        return await self._list("/adapters", Adapter)


class Questions(Operations[C]):
    """Questions that users asked, and the versions that learned from them."""

    @operation
    async def learned(self, question: str) -> Learned:
        """Return the versions that learned from a question, given by id, content hash or text."""
        request = post("/questions/learned", {"question": question}, idempotent=True)
        return await self._call(request, Learned)

    @operation
    async def erase(self, tenant: str) -> Learned:
        """Erase the questions of a tenant, given by its id; return the versions that learned."""
        return await self._call(delete("/questions", tenant=tenant), Learned)

    @operation
    async def tenants(self) -> list[Tenant]:
        """Return the tenants that have questions in the ledger, the largest first."""
        return await self._list("/questions/tenants", Tenant)

    @operation
    async def admit(self, tenant: str) -> Tenant:
        """End the quarantine of a tenant, so that training learns from its questions."""
        request = post(f"/questions/tenants/{tenant}/admit", {}, idempotent=True)
        return await self._call(request, Tenant)


class Keys(Operations[C]):
    """Admin keys. A key may do what its scopes say, until it expires."""

    @operation
    async def create(
        self,
        name: str,
        *,
        scopes: Iterable[str] = ("read",),
        expires_in_seconds: int | None = None,
    ) -> Key:
        """Make a key; its secret, `key`, is in this answer and in no later one.

        Without `expires_in_seconds` it never expires, unless the caller's key does. Raises
        PermissionDeniedError for a scope that the caller's key lacks, and ConflictError where the
        name is taken.
        """
        body = {"name": name, "scopes": [*scopes], "expires_in_seconds": expires_in_seconds}
        # Not idempotent: the server would refuse a second one, and the first secret would be lost.
        return await self._call(post("/keys", body), Key)

    @operation
    async def rotate(
        self,
        key_id: str,
        *,
        grace_seconds: int = DAY_SECONDS,
        expires_in_seconds: int | None = None,
    ) -> Key:
        """Make a key with the name and the scopes of another one, which works for the grace only.

        By default the new key gets as long a life as the old one had.
        """
        body = {"grace_seconds": grace_seconds, "expires_in_seconds": expires_in_seconds}
        return await self._call(post(f"/keys/{key_id}/rotate", body), Key)

    @operation
    async def delete(self, key_id: str) -> Key:
        """Revoke a key; other API processes refuse it from their next poll on."""
        return await self._call(delete(f"/keys/{key_id}"), Key)

    @operation
    async def list(self) -> list[Key]:
        """Return all keys, newest first."""
        return await self._list("/keys", Key)


class Audit(Operations[C]):
    """The changes of the deployment: who made each one, from which address."""

    @operation
    async def list(self, *, limit: int = 100) -> list[AuditRecord]:
        """Return the `limit` newest changes, newest first; 0: all."""
        return await self._list("/audit", AuditRecord, limit=limit)


class TrainingSwitch(Operations[C]):
    """Pauses and resumes training; both survive restarts."""

    @operation
    async def pause(self, reason: str = "") -> Training:
        """Stop training after the step under way."""
        request = post("/training/pause", {"reason": reason}, idempotent=True)
        return await self._call(request, Training)

    @operation
    async def resume(self, new_tests: bool = False) -> Training:
        """Let training go on; with `new_tests` reset the number of the gate's tests.

        Only a key with the scope `promote`, too, may reset it.
        The gate makes at most 50 tests on one set of held-out questions. The number is reset also
        where training is not paused.
        """
        request = post("/training/resume", {"new_tests": new_tests}, idempotent=True)
        return await self._call(request, Training)


class Deployment(Operations[C], Connection[C]):
    """All operations; a client adds the connection."""

    def __init__(self, max_retries: int) -> None:
        super().__init__(self)
        self._max_retries = max_retries
        self.files = Files(self)
        self.labels = Labels(self)
        self.jobs = Jobs(self)
        self.adapters = Adapters(self)
        self.questions = Questions(self)
        self.keys = Keys(self)
        self.audit = Audit(self)
        self.training = TrainingSwitch(self)

    @operation
    async def status(self) -> Status:
        """Return the state of the whole deployment at one moment."""
        return await self._call(get("/status"), Status)

    @operation
    async def recalibrate(
        self,
        labeled: Labeled,
        *,
        wait: bool = True,
        timeout: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Upload labeled questions and fit the critic to them; return the job at its end.

        Without `wait` it returns the queued job. Raises what `files.create` and `jobs.wait` raise.
        """
        file = await Files.create(self.files, labeled)
        job = await Jobs.create(self.jobs, "recalibrate", training_file=file.id)
        if not wait:
            return job
        return await Jobs.wait(self.jobs, job.id, timeout=timeout, poll_seconds=poll_seconds)


def _filename_and_content(labeled: Labeled) -> tuple[str, bytes]:
    if isinstance(labeled, bytes):
        return "labeled.jsonl", labeled
    if isinstance(labeled, str | os.PathLike) and Path(labeled).is_dir():
        return f"{Path(labeled).resolve().name}.jsonl", json_lines(Path(labeled))
    if isinstance(labeled, str | os.PathLike):
        return Path(labeled).name, Path(labeled).read_bytes()
    return "labeled.jsonl", "".join(f"{json_line(row)}\n" for row in rows_of(labeled)).encode()
