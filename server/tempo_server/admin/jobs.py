"""Training jobs. A job is a row in the ledger; a message through Valkey wakes the worker."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from tempo_server.admin.route import CallersKey, CurrentContext, KeyRoute, PageQuery, needs
from tempo_server.admin.schemas import (
    CHECKPOINT_PREFIX,
    EVENT_PREFIX,
    Checkpoint,
    Event,
    Job,
    JobRequest,
    Page,
    number_of,
)
from tempo_server.context import Context
from tempo_server.errors import JobRunningError
from tempo_server.keys import check_scope
from tempo_storage import ledger
from tempo_storage.adapters import version_name
from tempo_storage.errors import ConflictError, InvalidInputError, NotFoundError
from tempo_storage.ledger import models as rows
from tempo_storage.valkey.doorbell import ring

router = APIRouter(route_class=KeyRoute)


@router.post("/fine_tuning/jobs", **needs("train", 404, 408, 409, 413))
def create_job(context: CurrentContext, key: CallersKey, body: JobRequest) -> Job:
    """Queue a recalibration or a round; at most one of each is queued or runs.

    A round without `auto_promote` leaves its version to an operator, and the gate does not count
    its test. So it needs the scope `promote`, too.
    """
    if not body.tempo.auto_promote:
        check_scope(context, key, "promote")
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
        job = _job(context, s, row)
    ring(context.redis, row.id)
    return job


@router.get("/fine_tuning/jobs", **needs("read", 404))
def list_jobs(context: CurrentContext, paging: PageQuery) -> Page[Job]:
    """List the jobs, newest first."""
    with context.sessions() as s:
        page = ledger.jobs.page(s, after=paging.after, limit=paging.limit + 1)
        versions = ledger.versions.of_jobs(s, [row.id for row in page])
        jobs = [_job(context, s, row, versions.get(row.id)) for row in page]
    return paging.cut(jobs)


@router.get("/fine_tuning/jobs/{job_id}", **needs("read", 404))
def get_job(context: CurrentContext, job_id: str) -> Job:
    """Show one job."""
    with context.sessions() as s:
        row = ledger.jobs.get(s, job_id)
        return _job(context, s, row, ledger.versions.adapter_of_job(s, job_id))


@router.post("/fine_tuning/jobs/{job_id}/cancel", **needs("train", 404, 409))
def cancel_job(context: CurrentContext, job_id: str) -> Job:
    """Cancel a job; the worker stops after the current step and keeps the committed ones.

    A cancelled job promotes nothing, even if its gate has just ended.
    """
    with context.sessions.begin() as s:
        row = ledger.jobs.get(s, job_id, lock=True)
        if row.status in ledger.jobs.ACTIVE:
            ledger.jobs.cancel(s, row)
        elif row.status != "cancelled":
            raise ConflictError(f"{job_id} has {row.status} already; there is nothing to cancel")
    return get_job(context, job_id)


@router.post("/fine_tuning/jobs/{job_id}/pause", **needs("train", 404, 409))
def pause_job(context: CurrentContext, job_id: str) -> Job:
    """Pause a job after its current step, and with it all training; restarts keep the pause.

    One worker trains one job at a time, so no other job starts meanwhile.
    """
    with context.sessions.begin() as s:
        _check_unfinished(ledger.jobs.get(s, job_id, lock=True))
        modes = ledger.jobs.TRAINING
        for other in ledger.jobs.find(s, statuses=["running"], modes=modes):
            if other.id != job_id:
                raise ConflictError(
                    f"{other.id} runs, and a pause would stop it, too; pause that job, or all "
                    "training with `tempo pause`"
                )
        ledger.training.set_paused(s, True, f"{job_id} was paused by request")
    return get_job(context, job_id)


@router.post("/fine_tuning/jobs/{job_id}/resume", **needs("train", 404, 409))
def resume_job(context: CurrentContext, job_id: str) -> Job:
    """Resume a job, and with it all training."""
    with context.sessions.begin() as s:
        _check_unfinished(ledger.jobs.get(s, job_id, lock=True))
        if ledger.training.get(s).paused:
            ledger.training.set_paused(s, False)
    return get_job(context, job_id)


@router.get("/fine_tuning/jobs/{job_id}/events", **needs("read", 404))
def list_events(context: CurrentContext, job_id: str, paging: PageQuery) -> Page[Event]:
    """List a job's events, newest first."""
    before = None if paging.after is None else number_of(paging.after, EVENT_PREFIX)
    with context.sessions() as s:
        ledger.jobs.get(s, job_id)
        event_rows = ledger.events.find(
            s, job_id=job_id, before=before, newest_first=True, limit=paging.limit + 1
        )
    return paging.cut([Event.model_validate(row) for row in event_rows])


@router.get("/fine_tuning/jobs/{job_id}/checkpoints", **needs("read", 404))
def list_checkpoints(context: CurrentContext, job_id: str, paging: PageQuery) -> Page[Checkpoint]:
    """List a job's committed iterations with their metrics, newest first."""
    below = None if paging.after is None else number_of(paging.after, CHECKPOINT_PREFIX)
    with context.sessions() as s:
        ledger.jobs.get(s, job_id)
        version = ledger.versions.adapter_of_job(s, job_id)
        iterations = ledger.jobs.checkpoints(s, job_id, below=below, limit=paging.limit + 1)
    return paging.cut([Checkpoint.of(iteration, version) for iteration in iterations])


def _job(context: Context, s: Session, row: rows.Job, version: rows.Adapter | None = None) -> Job:
    """Return a job from its row, with the version that it published.

    A job that waits for the end of a pause shows as paused.
    """
    adapter = None if version is None else version_name(version.version)
    job = Job.of(row, model=context.served_name, adapter=adapter)
    if row.status == "queued":
        job.tempo.progress = {"phase": "queued", "waits_for": ledger.jobs.waits_for(s, row)}
    waits = row.status == "queued" and row.mode in ledger.jobs.TRAINING
    if waits and ledger.training.get(s).paused:
        return job.model_copy(update={"status": "paused"})
    return job


def _check_unfinished(row: rows.Job) -> None:
    if row.status not in ledger.jobs.ACTIVE:
        raise ConflictError(f"{row.id} has {row.status} already; start another with `tempo round`")
    if row.mode not in ledger.jobs.TRAINING:
        raise ConflictError(f"{row.id} is a {row.mode}, which no pause stops; cancel it instead")


def _check_model(context: Context, model: str | None) -> None:
    names = {context.base, *context.served_names, *context.settings.alias_names}
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
