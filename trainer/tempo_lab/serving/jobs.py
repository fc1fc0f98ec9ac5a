"""Follow a job of a server until it ends."""

import time
from collections.abc import Callable

from tempo_client import Tempo
from tempo_client.types import Job

JOB_SECONDS = 3600.0
POLL_SECONDS = 1.0


def follow(tempo: Tempo, job: Job, look: Callable[[Job], None]) -> Job:
    """Return a job that has succeeded; call `look` with its state every second until it ends.

    `look` may raise where the server has ended. Raises RuntimeError for a job that ends otherwise
    or takes longer than an hour.
    """
    deadline = time.monotonic() + JOB_SECONDS
    while not job.is_finished:
        if time.monotonic() > deadline:
            raise RuntimeError(f"job {job.id} still runs after {JOB_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
        job = tempo.jobs.retrieve(job.id)
        look(job)
    if job.status != "succeeded":
        raise RuntimeError(f"job {job.id} {job.status}: {job.error and job.error.message}")
    return job
