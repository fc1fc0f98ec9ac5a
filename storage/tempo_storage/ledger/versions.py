"""Adapter versions, the serving pointer, and the API processes that follow it.

Only `promote` selects another version. Its callers: the gate, an operator, the sentinel
(`reject_serving`), and whoever finds the serving version corrupt (`mark_corrupt`).
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.adapters import BASE, version_name, version_of
from tempo_storage.errors import ConflictError, GateRefusedError
from tempo_storage.ledger import audit, events
from tempo_storage.ledger.models import Adapter, Job, ServerProcess, Serving
from tempo_storage.ledger.rows import require

# The files of the newest candidates stay; the sweep treats older ones like other versions.
CANDIDATES_KEPT = 3
ROLLED_BACK = "version.rolled_back"  # the word of the audit
SILENT_SECONDS = 3600.0  # a server process that says nothing for so long has ended


def serving(s: Session) -> Serving:
    """Return the serving pointer."""
    return s.get_one(Serving, 1)


def locked_pointer(s: Session) -> Serving:
    """Return the current serving pointer; nobody else can move it until this transaction ends."""
    return s.get_one(Serving, 1, with_for_update=True, populate_existing=True)


def adapter(s: Session, version: int) -> Adapter:
    """Return one version or raise NotFoundError."""
    return require(s.get(Adapter, version), "adapter", version_name(version))


def adapters(
    s: Session,
    *,
    statuses: Sequence[str] = (),
    below: int | None = None,
    limit: int | None = None,
) -> list[Adapter]:
    """Return the versions of these statuses, newest first; empty means all.

    With `below`, a number, return only versions below it.
    """
    query = select(Adapter).order_by(Adapter.version.desc()).limit(limit)
    query = query if below is None else query.where(Adapter.version < below)
    return list(s.scalars(query.where(Adapter.status.in_(statuses)) if statuses else query))


def adapter_of_job(s: Session, job_id: str) -> Adapter | None:
    """Return the version that a job published, if it has published one."""
    return of_jobs(s, [job_id]).get(job_id)


def of_jobs(s: Session, job_ids: Collection[str]) -> dict[str, Adapter]:
    """Return by the job's id the version that each of these jobs published."""
    rows = s.scalars(select(Adapter).where(Adapter.job_id.in_(job_ids)))
    return {row.job_id: row for row in rows}


def checkpoint_of(s: Session, version: int) -> str:
    """Return the checkpoint from which training continues a version; "" for the base."""
    return adapter(s, version).checkpoint if version != BASE else ""


def next_version(s: Session) -> int:
    """Return the number of the next version; numbers are never reused."""
    return int(s.scalar(select(func.coalesce(func.max(Adapter.version), 0))) or 0) + 1


def promote(
    s: Session,
    version: int,
    *,
    expected_current: int | None = None,
    reason: str = "",
    force: bool = False,
    action: str = "version.promoted",
) -> Serving:
    """Point serving at `version`: a candidate, an earlier version or the base.

    `action` is the word of the audit; a rollback has another one.

    Raises NotFoundError for an unknown version, ConflictError when the serving version is not
    `expected_current` or `version` is corrupt or swept, and GateRefusedError when the gate rejected
    it and `force` is false.
    """
    pointer = locked_pointer(s)
    if expected_current is not None and pointer.version != expected_current:
        raise ConflictError(
            f"tempo-v{pointer.version} is serving, not tempo-v{expected_current}; read it again"
        )
    if version != BASE:
        row = adapter(s, version)
        _raise_if_unfit(row, force)
        if row.status == "rejected":
            row.forced = True
            row.report = row.report | {"forced": reason or "no reason was given"}
    if version == pointer.version:
        return pointer
    _retire(s, pointer.version)
    _set_status(s, version, "serving")
    pointer.previous = pointer.version
    pointer.version = version
    pointer.sequence += 1
    pointer.reason = reason
    pointer.changed_at = time.time()
    events.add(
        s,
        "adapter.promoted",
        f"tempo-v{version} is promoted over tempo-v{pointer.previous}",
        data={"version": version, "previous": pointer.previous, "reason": reason, "force": force},
    )
    audit.record(
        s,
        action,
        version_name(version),
        before={"serving": version_name(pointer.previous)},
        after={"serving": version_name(version), "reason": reason, "force": force},
    )
    return pointer


def version_before(s: Session) -> int:
    """Return the version to which a rollback returns.

    This is the version that served before. If that version is newer (it was itself rolled back),
    rejected, corrupt or swept, this is the nearest sound ancestor of the serving version. Raises
    ConflictError when the base serves.
    """
    pointer = serving(s)
    if pointer.version == BASE:
        raise ConflictError("the base serves, there is nothing to roll back to; promote a version")
    if pointer.previous < pointer.version and _is_sound(s, pointer.previous):
        return pointer.previous
    return sound_ancestor(s, pointer.version)


def sound_ancestor(s: Session, version: int) -> int:
    """Return the nearest sound ancestor of a version, at last the base.

    The parent of a version is the version that served when it was trained.
    """
    while version != BASE:
        version = adapter(s, version).parent
        if _is_sound(s, version):
            return version
    return BASE


def rollback_from(s: Session, unwanted: Collection[int]) -> int | None:
    """Return the version to which a rollback leads away from these; None if none of them serves."""
    version = serving(s).version
    if version not in unwanted:
        return None
    while version in unwanted:
        version = sound_ancestor(s, version)
    return version


def _is_sound(s: Session, version: int) -> bool:
    """Tell whether a version may serve without force: it is not corrupt, rejected or swept."""
    row = s.get(Adapter, version)
    sound = row is not None and row.status not in ("corrupt", "rejected") and not row.swept
    return sound or version == BASE


def in_use(s: Session) -> set[int]:
    """Return the versions whose files must stay.

    These are the serving version, those to which a rollback may return, the newest candidates, and
    all that a server process serves or holds. A silent process may still hold a version, so it
    counts until it has been silent for an hour.
    """
    candidates = adapters(s, statuses=("candidate",))[:CANDIDATES_KEPT]
    return _needed_to_serve(s).union(row.version for row in candidates)


def sweep(s: Session, version: int, *, reason: str) -> None:
    """Record that a version's files may be deleted: it can never serve again.

    Raises NotFoundError for an unknown version, and ConflictError for the base, a version that is
    needed to serve, and one whose job has not ended.
    """
    locked_pointer(s)
    if version == BASE:
        raise ConflictError("tempo-v0 is the base itself; it has no files that can be deleted")
    row = adapter(s, version)
    job = s.get(Job, row.job_id)
    if job is not None and job.status in ("queued", "running"):
        raise ConflictError(
            f"{job.id} still decides about tempo-v{version}; wait or cancel the job"
        )
    if version in _needed_to_serve(s):
        raise ConflictError(
            f"tempo-v{version} serves, a rollback may return to it, or a server process holds it; "
            "promote other versions first"
        )
    if not row.swept:
        row.swept = True
        row.report = row.report | {"swept": reason}
        message = f"tempo-v{version} is deleted: {reason}"
        events.add(s, "adapter.deleted", message, data={"version": version})
        audit.record(s, "version.deleted", version_name(version), after={"reason": reason})


def _needed_to_serve(s: Session) -> set[int]:
    """Return the versions that serve, may serve after a rollback, or are held by a process."""
    pointer = serving(s)
    alive = processes(s, alive_within_seconds=SILENT_SECONDS)
    held = [name for process in alive for name in process.held]
    return {
        pointer.version,
        pointer.previous,
        sound_ancestor(s, pointer.version),
        *(process.version for process in alive),
        *(version_of(name) for name in held if "-v" in name),  # not the trials
    }


def reject_serving(s: Session, version: int, *, to: int, reason: str) -> None:
    """Point serving from `version` to `to`, and let `version` serve again only by force."""
    pointer = promote(s, to, expected_current=version, reason=reason, action=ROLLED_BACK)
    # Nobody may name or restore the rejected version.
    pointer.previous = pointer.version
    _set_status(s, version, "rejected")


def mark_corrupt(s: Session, version: int, message: str) -> None:
    """Record that a version must never serve again: its files changed, or its probe failed.

    If the serving pointer is at this version, it returns to the version before, or to the base if
    that is corrupt too.
    """
    pointer = locked_pointer(s)
    row = adapter(s, version)
    if row.status == "corrupt":
        return
    row.status = "corrupt"
    row.report = row.report | {"corrupt": message}
    events.add(s, "adapter.corrupt", message, level="error", data={"version": version})
    if pointer.version == version:
        before = s.get(Adapter, pointer.previous)
        intact = before is not None and before.status != "corrupt"
        target = pointer.previous if intact else BASE
        promote(s, target, reason=message, force=True, action=ROLLED_BACK)
    if pointer.previous == version:
        # Nobody may name or restore the corrupt version.
        pointer.previous = pointer.version


def _raise_if_unfit(row: Adapter, force: bool) -> None:
    if row.status == "corrupt":
        reason = row.report.get("corrupt", "its files are damaged")
        raise ConflictError(f"tempo-v{row.version} is corrupt, promote another: {reason}")
    if row.swept:
        raise ConflictError(f"tempo-v{row.version} was swept, promote another: its files are gone")
    if row.status == "rejected" and not force:
        raise GateRefusedError(
            f"the gate rejected tempo-v{row.version}; promote it with force=true"
        )


def _retire(s: Session, version: int) -> None:
    """Take a version out of service; one that served by force is rejected again."""
    row = s.get(Adapter, version)
    was_forced = row is not None and row.forced
    _set_status(s, version, "rejected" if was_forced else "retired")


def _set_status(s: Session, version: int, status: str) -> None:
    row = s.get(Adapter, version)
    if row is not None and row.status != "corrupt":
        row.status = status


def acknowledge(
    s: Session,
    process_id: str,
    *,
    version: int,
    sequence: int,
    error: str | None = None,
    counters: Mapping[str, Any] | None = None,
    held: Sequence[str] = (),
) -> None:
    """Record which version an API process answers with, and why it could not follow the pointer.

    `held` names the adapters that it has loaded or still answers requests with.
    """
    row = s.get(ServerProcess, process_id) or ServerProcess(id=process_id)
    row.version = version
    row.sequence = sequence
    row.error = error
    row.counters = dict(counters or {})
    row.held = list(held)
    row.seen_at = time.time()
    s.add(row)


def processes(s: Session, *, alive_within_seconds: float = 10.0) -> list[ServerProcess]:
    """Return the API processes that acknowledged a version within these seconds."""
    since = time.time() - alive_within_seconds
    return list(s.scalars(select(ServerProcess).where(ServerProcess.seen_at >= since)))


def processes_behind(s: Session) -> list[ServerProcess]:
    """Return the live API processes that do not answer with the serving version yet."""
    pointer = serving(s)
    return [
        process
        for process in processes(s)
        if process.version != pointer.version or process.sequence < pointer.sequence
    ]


def forget_processes(s: Session, *, silent_for_seconds: float) -> None:
    """Delete the rows of API processes that have been silent for so long."""
    before = time.time() - silent_for_seconds
    s.execute(delete(ServerProcess).where(ServerProcess.seen_at < before))
