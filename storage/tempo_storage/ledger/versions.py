"""Adapter versions and the serving pointer in the ledger."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from tempo_storage.adapters import version_of
from tempo_storage.errors import ConflictError, GateRefusedError, NotFoundError
from tempo_storage.ledger import events
from tempo_storage.ledger.models import Adapter, ServerProcess, Serving

BASE = 0  # version 0 is the base model without an adapter
UNSOUND = ("corrupt", "rejected")
CANDIDATES_KEPT = 3  # the newest; an older one that nobody promoted ages like other versions
SILENT_SECONDS = 3600.0  # after which a server process is taken to have ended


def serving(s: Session) -> Serving:
    """Return the serving pointer."""
    return s.get_one(Serving, 1)


def locked_pointer(s: Session) -> Serving:
    """Return the serving pointer as it stands, and let nobody else move it until the commit."""
    return s.get_one(Serving, 1, with_for_update=True, populate_existing=True)


def adapter(s: Session, version: int) -> Adapter:
    """Return one version or raise NotFoundError."""
    row = s.get(Adapter, version)
    if row is None:
        raise NotFoundError(f"no adapter tempo-v{version}; list the adapters to see which exist")
    return row


def adapters(s: Session, *, statuses: Sequence[str] = ()) -> list[Adapter]:
    """Return the versions, newest first, of the given statuses or of all."""
    query = select(Adapter).order_by(Adapter.version.desc())
    return list(s.scalars(query.where(Adapter.status.in_(statuses)) if statuses else query))


def adapter_of_job(s: Session, job_id: str) -> Adapter | None:
    """Return the version that came of a job, if one did."""
    return s.scalars(select(Adapter).where(Adapter.job_id == job_id)).first()


def checkpoint_of(s: Session, version: int) -> str:
    """Return the checkpoint from which training goes on where a version serves; "" of the base."""
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
) -> Serving:
    """Point serving at `version`, a candidate or an earlier one.

    Raises NotFoundError for an unknown version, ConflictError when the serving version is not
    `expected_current` or `version` is corrupt, and GateRefusedError when the gate rejected it and
    `force` is false.
    """
    pointer = locked_pointer(s)
    if expected_current is not None and pointer.version != expected_current:
        raise ConflictError(
            f"tempo-v{pointer.version} is serving, not tempo-v{expected_current}; read it again"
        )
    if version != BASE:
        row = adapter(s, version)
        _refuse_unfit(row, force)
        if row.status == "rejected":
            row.report = row.report | {"forced": reason or "no reason was given"}
    if version == pointer.version:
        return pointer
    _retire(s, pointer.version)
    _set_status(s, version, "serving")
    pointer.previous, pointer.version = pointer.version, version
    pointer.sequence += 1
    pointer.reason, pointer.changed_at = reason, time.time()
    events.add(
        s,
        "adapter.promoted",
        f"tempo-v{version} is promoted over tempo-v{pointer.previous}",
        data={"version": version, "previous": pointer.previous, "reason": reason, "force": force},
    )
    return pointer


def roll_back(s: Session, *, to: int | None = None, reason: str = "") -> Serving:
    """Point serving at `to`, or at the version that served before the present one."""
    return promote(s, version_before(s) if to is None else to, reason=reason or "rollback")


def version_before(s: Session) -> int:
    """Return what a rollback returns to: what served before, else what the version came from.

    Never forward: after a rollback, what served before is what was complained about; nor to what
    was rejected. Raises ConflictError when the base serves.
    """
    pointer = serving(s)
    if pointer.version == BASE:
        raise ConflictError("the base serves, there is nothing to roll back to; promote a version")
    if pointer.previous < pointer.version and _is_sound(s, pointer.previous):
        return pointer.previous
    return sound_ancestor(s, pointer.version)


def sound_ancestor(s: Session, version: int) -> int:
    """Return the nearest version that served before `version` was made and still may; or BASE."""
    while version != BASE:
        version = adapter(s, version).parent
        if _is_sound(s, version):
            return version
    return BASE


def _is_sound(s: Session, version: int) -> bool:
    row = s.get(Adapter, version)
    sound = row is not None and row.status not in UNSOUND and "swept" not in row.report
    return sound or version == BASE


def in_use(s: Session) -> set[int]:
    """Return the versions whose files must stay.

    Those that serve or may be returned to, the newest candidates, and what a server process serves,
    has loaded or still answers requests with, also one that has been silent for a while.
    """
    pointer, heard = serving(s), processes(s, alive_within_seconds=SILENT_SECONDS)
    used = {pointer.version, pointer.previous, sound_ancestor(s, pointer.version)}
    used |= {row.version for row in adapters(s, statuses=("candidate",))[:CANDIDATES_KEPT]}
    used |= {process.version for process in heard}
    held = [name for process in heard for name in process.counters.get("held", ())]
    return used | {version_of(name) for name in held if "-v" in name}  # no snapshot's


def reject_serving(s: Session, version: int, *, to: int, reason: str) -> None:
    """Point serving from `version` to `to`; only force lets it serve again."""
    pointer = promote(s, to, expected_current=version, reason=reason)
    pointer.previous = pointer.version
    _set_status(s, version, "rejected")


def mark_corrupt(s: Session, version: int, message: str) -> None:
    """Record that a version is not what was trained: it can never serve, nor be pointed at.

    Where it was promoted, the version before it is again: that one never stopped serving.
    """
    pointer, row = locked_pointer(s), adapter(s, version)
    if row.status == "corrupt":
        return
    row.status, row.report = "corrupt", row.report | {"corrupt": message}
    events.add(s, "adapter.corrupt", message, level="error", data={"version": version})
    if pointer.version == version:
        before = s.get(Adapter, pointer.previous)
        sound = before is not None and before.status != "corrupt"
        promote(s, pointer.previous if sound else BASE, reason=message, force=True)
    if pointer.previous == version:
        pointer.previous = pointer.version


def _refuse_unfit(row: Adapter, force: bool) -> None:
    if row.status == "corrupt":
        reason = row.report.get("corrupt", "its files are damaged")
        raise ConflictError(f"tempo-v{row.version} is corrupt, promote another: {reason}")
    if "swept" in row.report:
        raise ConflictError(f"tempo-v{row.version} was swept, promote another: its files are gone")
    if row.status == "rejected" and not force:
        raise GateRefusedError(
            f"the gate rejected tempo-v{row.version}; promote it with force=true"
        )


def _retire(s: Session, version: int) -> None:
    """Take a version out of service; one that was forced is as rejected as it was before."""
    row = s.get(Adapter, version)
    was_forced = row is not None and "forced" in row.report
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
    counters: dict[str, Any] | None = None,
) -> None:
    """Record which version an API process answers with, and why it could not follow."""
    row = s.get(ServerProcess, process_id) or ServerProcess(id=process_id, counters={})
    row.version, row.sequence, row.error = version, sequence, error
    row.counters = row.counters if counters is None else counters
    row.seen_at = time.time()
    s.add(row)


def processes(s: Session, *, alive_within_seconds: float = 10.0) -> list[ServerProcess]:
    """Return the API processes heard of lately."""
    since = time.time() - alive_within_seconds
    return list(s.scalars(select(ServerProcess).where(ServerProcess.seen_at >= since)))


def forget_processes(s: Session, *, silent_for_seconds: float) -> None:
    """Drop API processes that are long gone."""
    before = time.time() - silent_for_seconds
    s.execute(delete(ServerProcess).where(ServerProcess.seen_at < before))
