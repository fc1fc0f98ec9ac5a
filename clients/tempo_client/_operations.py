"""What a client can do, as flows: the blocking and the asynchronous client drive the same ones."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tempo_client._protocol import (
    MAX_RETRIES,
    Flow,
    Pause,
    Request,
    exchange_with_retries,
    get,
    post,
    upload,
)
from tempo_client.errors import JobFailedError, JobTimeoutError
from tempo_client.types import Adapter, Event, File, Job, Status, Training

T = TypeVar("T")
Labeled: TypeAlias = str | os.PathLike[str] | bytes | Iterable[Mapping[str, Any]]
"""A path, the bytes of a file, or the examples themselves."""

PAGE = 100
POLL_SECONDS = 1.0
JOBS = "/fine_tuning/jobs"


@dataclass(frozen=True, slots=True)
class Operations:
    """The requests of each operation and what becomes of their answers."""

    max_retries: int = MAX_RETRIES

    def create_file(self, labeled: Labeled, *, dry_run: bool = False) -> Flow[File]:
        """Upload labeled questions."""
        filename, content = _read(labeled)
        form = {"dry_run": str(dry_run).lower()}
        request = upload("/files", filename, content=content, form=form)
        return (yield from self._ask(request, File.parse))

    def list_files(self) -> Flow[list[File]]:
        """Return all files, newest first."""
        return (yield from self._list("/files", File.parse))

    def retrieve_file(self, file_id: str) -> Flow[File]:
        """Return one file."""
        return (yield from self._ask(get(f"/files/{file_id}"), File.parse))

    def create_job(
        self, mode: str, *, training_file: str | None, max_steps: int | None, auto_promote: bool
    ) -> Flow[Job]:
        """Queue a job."""
        options = {"mode": mode, "max_steps": max_steps, "auto_promote": auto_promote}
        body = {"training_file": training_file, "tempo": options}
        return (yield from self._ask(post(JOBS, body), Job.parse))

    def list_jobs(self) -> Flow[list[Job]]:
        """Return all jobs, newest first."""
        return (yield from self._list(JOBS, Job.parse))

    def retrieve_job(self, job_id: str) -> Flow[Job]:
        """Return one job."""
        return (yield from self._ask(get(f"{JOBS}/{job_id}"), Job.parse))

    def cancel_job(self, job_id: str) -> Flow[Job]:
        """Cancel a job; twice is once."""
        request = post(f"{JOBS}/{job_id}/cancel", {}, idempotent=True)
        return (yield from self._ask(request, Job.parse))

    def list_events(self, job_id: str, *, after: str | None) -> Flow[list[Event]]:
        """Return a job's events after one of them, oldest first."""
        return (yield from self._list(f"{JOBS}/{job_id}/events", Event.parse, after=after))

    def wait(self, job_id: str, *, timeout: float, poll_seconds: float) -> Flow[Job]:
        """Return the job when it has succeeded; raise JobFailedError or JobTimeoutError."""
        deadline = time.monotonic() + timeout
        while not (job := (yield from self.retrieve_job(job_id))).is_finished:
            if time.monotonic() + poll_seconds > deadline:
                raise JobTimeoutError(
                    f"job {job_id} is {job.status} after {timeout:g} s; it goes on, wait again"
                )
            yield Pause(poll_seconds)
        if job.status != "succeeded":
            reason = job.error.message if job.error else "no reason given"
            raise JobFailedError(f"job {job_id} has {job.status}: {reason}", job=job)
        return job

    def recalibrate(
        self, labeled: Labeled, *, wait: bool, timeout: float, poll_seconds: float
    ) -> Flow[Job]:
        """Upload labeled questions and calibrate the critic with them."""
        file = yield from self.create_file(labeled)
        job = yield from self.create_job(
            "recalibrate", training_file=file.id, max_steps=None, auto_promote=True
        )
        if not wait:
            return job
        return (yield from self.wait(job.id, timeout=timeout, poll_seconds=poll_seconds))

    def list_adapters(self) -> Flow[list[Adapter]]:
        """Return all versions, newest first; the last is the base."""
        return (yield from self._list("/adapters", Adapter.parse))

    def retrieve_adapter(self, adapter_id: str) -> Flow[Adapter]:
        """Return one version."""
        return (yield from self._ask(get(f"/adapters/{adapter_id}"), Adapter.parse))

    def promote(
        self, adapter_id: str, *, expected_current: str | None, force: bool, reason: str
    ) -> Flow[Adapter]:
        """Make a version serve."""
        body = {"expected_current": expected_current, "force": force, "reason": reason}
        # What was expected is no longer so after the first of two.
        request = post(f"/adapters/{adapter_id}/promote", body, idempotent=expected_current is None)
        return (yield from self._ask(request, Adapter.parse))

    def roll_back(self, *, to: str | None, reason: str) -> Flow[Adapter]:
        """Return to a version, or to the one before; two of the latter cancel each other."""
        request = post(
            "/adapters/rollback", {"to": to, "reason": reason}, idempotent=to is not None
        )
        return (yield from self._ask(request, Adapter.parse))

    def pause(self, *, reason: str) -> Flow[Training]:
        """Pause training."""
        request = post("/training/pause", {"reason": reason}, idempotent=True)
        return (yield from self._ask(request, Training.parse))

    def resume(self) -> Flow[Training]:
        """Resume training."""
        return (yield from self._ask(post("/training/resume", {}, idempotent=True), Training.parse))

    def status(self) -> Flow[Status]:
        """Return the whole deployment at one moment."""
        return (yield from self._ask(get("/status"), Status.parse))

    def _ask(self, request: Request, parse: Callable[[Mapping[str, Any]], T]) -> Flow[T]:
        return parse((yield from exchange_with_retries(request, max_retries=self.max_retries)))

    def _list(
        self,
        path: str,
        parse: Callable[[Mapping[str, Any]], T],
        *,
        after: str | None = None,
    ) -> Flow[list[T]]:
        items: list[T] = []
        while True:
            query = {"after": after} if after else {}
            body = yield from self._ask(get(path, limit=PAGE, **query), dict)
            items += map(parse, body["data"])
            if not body["has_more"]:
                return items
            after = body["data"][-1]["id"]


def _read(labeled: Labeled) -> tuple[str, bytes]:
    if isinstance(labeled, bytes):
        return "labeled.jsonl", labeled
    if isinstance(labeled, str | os.PathLike):
        return Path(labeled).name, Path(labeled).read_bytes()
    lines = (json.dumps(example, ensure_ascii=False, allow_nan=False) for example in labeled)
    return "labeled.jsonl", "".join(line + "\n" for line in lines).encode()
