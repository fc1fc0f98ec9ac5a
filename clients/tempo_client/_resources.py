"""The resources of the blocking client: names and types; `_operations` has what they do."""

from typing import TYPE_CHECKING

from tempo_client._operations import POLL_SECONDS, Labeled
from tempo_client.types import Adapter, Event, File, Job, Training

if TYPE_CHECKING:
    from tempo_client._client import Tempo


class Files:
    """Labeled files: a fifth of the questions is held out and decides promotions."""

    def __init__(self, client: "Tempo") -> None:
        self._run, self._do = client._run, client._operations

    def create(self, labeled: Labeled, *, dry_run: bool = False) -> File:
        """Upload a path, bytes or examples; all or nothing. A dry run checks and stores nothing.

        Raises BadRequestError, whose `line_errors` say which lines are wrong.
        """
        return self._run(self._do.create_file(labeled, dry_run=dry_run))

    def retrieve(self, file_id: str) -> File:
        """Return one file."""
        return self._run(self._do.retrieve_file(file_id))

    def list(self) -> list[File]:
        """Return all files, newest first."""
        return self._run(self._do.list_files())


class Jobs:
    """Training jobs: `recalibrate` is one E-step, a `round` is iterations and then the gate."""

    def __init__(self, client: "Tempo") -> None:
        self._run, self._do = client._run, client._operations

    def create(
        self,
        mode: str = "round",
        *,
        training_file: str | None = None,
        max_steps: int | None = None,
        auto_promote: bool = True,
    ) -> Job:
        """Queue a job; raise ConflictError while one of its mode has not ended."""
        return self._run(
            self._do.create_job(
                mode, training_file=training_file, max_steps=max_steps, auto_promote=auto_promote
            )
        )

    def retrieve(self, job_id: str) -> Job:
        """Return one job."""
        return self._run(self._do.retrieve_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; it stops at the next step and keeps what is committed."""
        return self._run(self._do.cancel_job(job_id))

    def events(self, job_id: str, *, after: str | None = None) -> list[Event]:
        """Return a job's events, oldest first, from the one that follows `after`."""
        return self._run(self._do.list_events(job_id, after=after))

    def wait(
        self, job_id: str, *, timeout: float = 3600.0, poll_seconds: float = POLL_SECONDS
    ) -> Job:
        """Return the job when it has succeeded.

        Raises JobFailedError when it ends otherwise, JobTimeoutError when it goes on.
        """
        return self._run(self._do.wait(job_id, timeout=timeout, poll_seconds=poll_seconds))

    def list(self) -> list[Job]:
        """Return all jobs, newest first."""
        return self._run(self._do.list_jobs())


class Adapters:
    """Versions `tempo-v<N>`; `tempo-v0` is the base."""

    def __init__(self, client: "Tempo") -> None:
        self._run, self._do = client._run, client._operations

    def retrieve(self, adapter_id: str) -> Adapter:
        """Return one version."""
        return self._run(self._do.retrieve_adapter(adapter_id))

    def promote(
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
        return self._run(
            self._do.promote(
                adapter_id, expected_current=expected_current, force=force, reason=reason
            )
        )

    def rollback(self, to: str | None = None, *, reason: str = "") -> Adapter:
        """Return to a version, or to the one that served before."""
        return self._run(self._do.roll_back(to=to, reason=reason))

    def list(self) -> list[Adapter]:
        """Return all versions, newest first; the last is the base."""
        return self._run(self._do.list_adapters())


class TrainingSwitch:
    """Pause and resume; both survive restarts."""

    def __init__(self, client: "Tempo") -> None:
        self._run, self._do = client._run, client._operations

    def pause(self, reason: str = "") -> Training:
        """Stop training after the step under way."""
        return self._run(self._do.pause(reason=reason))

    def resume(self) -> Training:
        """Let training go on."""
        return self._run(self._do.resume())
