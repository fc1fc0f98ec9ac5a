"""Training jobs: a row in the ledger, then a ring at the worker's door."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from tempo_server.admin.route import Current, Keyed, Part
from tempo_server.admin.schemas import EVENT_PREFIX, Event, Job, JobRequest, Page
from tempo_server.context import Context
from tempo_server.errors import JobRunningError
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import ConflictError, InvalidInputError, NotFoundError
from tempo_storage.valkey.doorbell import ring

MOST_JOBS = 10_000


router = APIRouter(route_class=Keyed)


@router.post("/fine_tuning/jobs")
def create_job(context: Current, body: JobRequest) -> Job:
    """Queue a recalibration or a round; one of each at a time."""
    _check_model(context, body.model)
    options = body.tempo.model_dump(exclude={"mode"}) | {"training_file": body.training_file}
    with context.sessions.begin() as s:
        ledger.training.lock(s)
        _check_data(s, body.training_file)
        for active in ledger.jobs.find(s, statuses=ledger.jobs.ACTIVE):
            if active.mode == body.tempo.mode:
                raise JobRunningError(
                    f"{active.id} ({active.mode}) is {active.status}; follow it with "
                    "`tempo watch`, or cancel it"
                )
        message = f"{body.tempo.mode} is queued"
        row = ledger.jobs.queue(s, body.tempo.mode, options, message=message)
    ring(context.redis, row.id)
    return Job.of(row, base=context.base, adapter=None)


@router.get("/fine_tuning/jobs")
def list_jobs(context: Current, part: Part) -> Page[Job]:
    """List the jobs, newest first."""
    with context.sessions() as s:
        found, adapters = ledger.jobs.find(s, limit=MOST_JOBS), _adapters(s)
    return part.page(
        [Job.of(row, base=context.base, adapter=adapters.get(row.id)) for row in found]
    )


@router.get("/fine_tuning/jobs/{job_id}")
def get_job(context: Current, job_id: str) -> Job:
    """Show one job."""
    with context.sessions() as s:
        row, adapters = ledger.jobs.get(s, job_id), _adapters(s)
    return Job.of(row, base=context.base, adapter=adapters.get(job_id))


@router.post("/fine_tuning/jobs/{job_id}/cancel")
def cancel_job(context: Current, job_id: str) -> Job:
    """Cancel a job; the worker stops at the next step, and keeps what is committed."""
    with context.sessions.begin() as s:
        row = ledger.jobs.get(s, job_id, lock=True)
        if row.status in ledger.jobs.ACTIVE:
            ledger.jobs.finish(s, job_id, "cancelled")
            ledger.events.add(s, "job.cancelled", "cancelled by request", job_id=job_id)
        elif row.status != "cancelled":
            raise ConflictError(f"{job_id} has {row.status} already; there is nothing to cancel")
    return get_job(context, job_id)


@router.get("/fine_tuning/jobs/{job_id}/events")
def list_events(context: Current, job_id: str, part: Part) -> Page[Event]:
    """List a job's events, oldest first."""
    after = _number(part.after)
    with context.sessions() as s:
        ledger.jobs.get(s, job_id)
        told = ledger.events.find(s, job_id=job_id, after=after, limit=part.limit + 1)
        found = [Event.model_validate(row) for row in told]
    return Page(data=found[: part.limit], has_more=len(found) > part.limit)


def _check_model(context: Context, model: str | None) -> None:
    trained = {context.base, *context.settings.alias_names}
    if model is not None and model not in trained:
        raise NotFoundError(f"{model!r} is not trained here; name one of {sorted(trained)}")


def _check_data(s: Session, training_file: str | None) -> None:
    if training_file is not None:
        ledger.labeled.file(s, training_file)
    if not ledger.labeled.count(s)["train"]:
        raise InvalidInputError(
            "there are no labeled questions to calibrate the critic with; upload a file first: "
            "tempo recalibrate FILE, or POST /tempo/v1/files"
        )


def _adapters(s: Session) -> dict[str, str]:
    """Return the name of the adapter that came of each job."""
    return {row.job_id: version_name(row.version) for row in ledger.versions.adapters(s)}


def _number(event_id: str | None) -> int:
    number = (event_id or f"{EVENT_PREFIX}0").removeprefix(EVENT_PREFIX)
    if not number.isdecimal() or len(number) > 18:
        raise InvalidInputError(f"{event_id!r} is no event id; give the last event's, or none")
    return int(number)
