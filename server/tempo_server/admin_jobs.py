"""Training jobs: a row in the ledger, then a ring at the worker's door."""

import secrets

from fastapi import APIRouter
from sqlalchemy.orm import Session

from tempo_server.context import Context
from tempo_server.errors import JobRunningError
from tempo_server.routing import Current, Limit, page
from tempo_server.schemas import EVENT_PREFIX, Event, Job, JobRequest, Page
from tempo_storage import models as rows
from tempo_storage import queries, versions
from tempo_storage.adapters import version_name
from tempo_storage.doorbell import ring
from tempo_storage.errors import ConflictError, InvalidInputError, NotFoundError

MOST_JOBS = 10_000


def add_routes(router: APIRouter) -> None:
    """Add the routes of jobs."""
    router.post("/fine_tuning/jobs")(create_job)
    router.get("/fine_tuning/jobs")(list_jobs)
    router.get("/fine_tuning/jobs/{job_id}")(get_job)
    router.post("/fine_tuning/jobs/{job_id}/cancel")(cancel_job)
    router.get("/fine_tuning/jobs/{job_id}/events")(list_events)


def create_job(context: Current, body: JobRequest) -> Job:
    """Queue a recalibration or a round; one of each at a time."""
    _check_model(context, body.model)
    job_id = f"ftjob-{secrets.token_hex(12)}"
    options = body.tempo.model_dump(exclude={"mode"}) | {"training_file": body.training_file}
    with context.sessions.begin() as s:
        s.get_one(rows.Training, 1, with_for_update=True)  # one creator at a time
        _check_data(s, body.training_file)
        for active in queries.jobs(s, statuses=queries.ACTIVE):
            if active.mode == body.tempo.mode:
                raise JobRunningError(
                    f"{active.id} ({active.mode}) is {active.status}; wait for it or cancel it"
                )
        row = queries.create_job(s, job_id, body.tempo.mode, options)
        queries.add_event(s, "job.queued", f"{body.tempo.mode} is queued", job_id=job_id)
    ring(context.redis, job_id)
    return Job.of(row, base=context.base, adapter=None)


def list_jobs(context: Current, after: str | None = None, limit: Limit = 20) -> Page[Job]:
    """List the jobs, newest first."""
    with context.sessions.begin() as s:
        found, adapters = queries.jobs(s, limit=MOST_JOBS), _adapters(s)
    return page(
        found,
        after=after,
        limit=limit,
        key=lambda row: row.id,
        show=lambda row: Job.of(row, base=context.base, adapter=adapters.get(row.id)),
    )


def get_job(context: Current, job_id: str) -> Job:
    """Show one job."""
    with context.sessions.begin() as s:
        row, adapters = queries.job(s, job_id), _adapters(s)
    return Job.of(row, base=context.base, adapter=adapters.get(job_id))


def cancel_job(context: Current, job_id: str) -> Job:
    """Cancel a job; the worker stops at the next step, and keeps what is committed."""
    with context.sessions.begin() as s:
        row = queries.job(s, job_id, lock=True)
        if row.status in queries.ACTIVE:
            queries.finish_job(s, job_id, "cancelled")
            queries.add_event(s, "job.cancelled", "cancelled by request", job_id=job_id)
        elif row.status != "cancelled":
            raise ConflictError(f"{job_id} has {row.status} already; there is nothing to cancel")
    return get_job(context, job_id)


def list_events(
    context: Current, job_id: str, after: str | None = None, limit: Limit = 20
) -> Page[Event]:
    """List a job's events, oldest first."""
    with context.sessions.begin() as s:
        queries.job(s, job_id)
        found = queries.events(s, job_id=job_id, after=_number(after), limit=limit + 1)
    return Page(data=[Event.of(row) for row in found[:limit]], has_more=len(found) > limit)


def _check_model(context: Context, model: str | None) -> None:
    trained = {context.base, *context.settings.alias_names}
    if model is not None and model not in trained:
        raise NotFoundError(f"{model!r} is not trained here; name one of {sorted(trained)}")


def _check_data(s: Session, training_file: str | None) -> None:
    if training_file is not None:
        queries.file(s, training_file)
    if not queries.example_counts(s)["train"]:
        raise InvalidInputError(
            "there are no labeled questions to calibrate the critic with; upload a file first: "
            "POST /tempo/v1/files"
        )


def _adapters(s: Session) -> dict[str, str]:
    """Return the name of the adapter that came of each job."""
    return {row.job_id: version_name(row.version) for row in versions.adapters(s)}


def _number(event_id: str | None) -> int:
    number = (event_id or f"{EVENT_PREFIX}0").removeprefix(EVENT_PREFIX)
    if not number.isdecimal() or len(number) > 18:
        raise InvalidInputError(f"{event_id!r} is no event id; give the last event's, or none")
    return int(number)
