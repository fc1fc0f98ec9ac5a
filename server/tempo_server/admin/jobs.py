"""Training jobs. A job is a row in the ledger; a message through Valkey wakes the worker."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from tempo_server.admin.route import CurrentContext, KeyRoute, PageQuery
from tempo_server.admin.schemas import EVENT_PREFIX, Event, Job, JobRequest, Page
from tempo_server.context import Context
from tempo_server.errors import JobRunningError
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import ConflictError, InvalidInputError, NotFoundError
from tempo_storage.valkey.doorbell import ring

MAX_JOBS = 10_000
MAX_EVENT_DIGITS = 18  # a number with more is too large for the database

router = APIRouter(route_class=KeyRoute)


@router.post("/fine_tuning/jobs")
def create_job(context: CurrentContext, body: JobRequest) -> Job:
    """Queue a recalibration or a round; at most one of each is queued or runs."""
    _check_model(context, body.model)
    mode = body.tempo.mode
    options = body.tempo.model_dump(exclude={"mode"}) | {"training_file": body.training_file}
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        _check_data(s, body.training_file)
        if active := ledger.jobs.find(s, statuses=ledger.jobs.ACTIVE, modes=[mode]):
            raise JobRunningError(
                f"{active[0].id} ({mode}) is {active[0].status}; follow it with `tempo watch`, or "
                "cancel it"
            )
        row = ledger.jobs.queue(s, mode, options, message=f"{mode} is queued")
    ring(context.redis, row.id)
    return Job.of(row, base=context.base, adapter=None)


@router.get("/fine_tuning/jobs")
def list_jobs(context: CurrentContext, paging: PageQuery) -> Page[Job]:
    """List the jobs, newest first."""
    with context.sessions() as s:
        rows = ledger.jobs.find(s, limit=MAX_JOBS)
        adapters = {row.job_id: version_name(row.version) for row in ledger.versions.adapters(s)}
    jobs = [Job.of(row, base=context.base, adapter=adapters.get(row.id)) for row in rows]
    return paging.page(jobs)


@router.get("/fine_tuning/jobs/{job_id}")
def get_job(context: CurrentContext, job_id: str) -> Job:
    """Show one job."""
    with context.sessions() as s:
        row = ledger.jobs.get(s, job_id)
        version = ledger.versions.adapter_of_job(s, job_id)
    adapter = None if version is None else version_name(version.version)
    return Job.of(row, base=context.base, adapter=adapter)


@router.post("/fine_tuning/jobs/{job_id}/cancel")
def cancel_job(context: CurrentContext, job_id: str) -> Job:
    """Cancel a job; the worker stops after the current step and keeps the committed ones.

    A cancelled job promotes nothing, even if its gate has just ended.
    """
    with context.sessions.begin() as s:
        row = ledger.jobs.get(s, job_id, lock=True)
        if row.status in ledger.jobs.ACTIVE:
            ledger.jobs.finish(s, job_id, "cancelled")
            ledger.events.add(s, "job.cancelled", "cancelled by request", job_id=job_id)
        elif row.status != "cancelled":
            raise ConflictError(f"{job_id} has {row.status} already; there is nothing to cancel")
    return get_job(context, job_id)


@router.get("/fine_tuning/jobs/{job_id}/events")
def list_events(context: CurrentContext, job_id: str, paging: PageQuery) -> Page[Event]:
    """List a job's events, oldest first."""
    after = _event_number(paging.after)
    with context.sessions() as s:
        ledger.jobs.get(s, job_id)
        rows = ledger.events.find(s, job_id=job_id, after=after, limit=paging.limit + 1)
        events = [Event.model_validate(row) for row in rows]
    return Page(data=events[: paging.limit], has_more=len(events) > paging.limit)


def _check_model(context: Context, model: str | None) -> None:
    names = {context.base, *context.settings.alias_names}
    if model is not None and model not in names:
        raise NotFoundError(f"{model!r} is not trained here; name one of {sorted(names)}")


def _check_data(s: Session, training_file: str | None) -> None:
    if training_file is not None:
        ledger.labeled.file(s, training_file)
    if not ledger.labeled.count(s)["train"]:
        raise InvalidInputError(
            "there are no labeled questions to calibrate the critic with; upload a file first: "
            "tempo recalibrate FILE, or POST /tempo/v1/files"
        )


def _event_number(event_id: str | None) -> int:
    number = (event_id or f"{EVENT_PREFIX}0").removeprefix(EVENT_PREFIX)
    if not number.isdecimal() or len(number) > MAX_EVENT_DIGITS:
        raise InvalidInputError(f"{event_id!r} is no event id; give the last event's, or none")
    return int(number)
