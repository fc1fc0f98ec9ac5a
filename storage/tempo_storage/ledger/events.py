"""Events: the deployment's log for its operator."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tempo_storage.ledger.models import Event


def add(
    s: Session,
    type: str,
    message: str,
    *,
    job_id: str | None = None,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Append an event; `level` is info, warning or error."""
    s.add(Event(job_id=job_id, level=level, type=type, message=message, data=data or {}))


def find(
    s: Session,
    *,
    job_id: str | None = None,
    before: int | None = None,
    newest_first: bool = False,
    limit: int = 100,
) -> list[Event]:
    """Return events of one job or of all; with `before`, a number, only those before it."""
    order = Event.number.desc() if newest_first else Event.number
    query = select(Event).order_by(order).limit(limit)
    query = query if before is None else query.where(Event.number < before)
    return list(s.scalars(query.where(Event.job_id == job_id) if job_id else query))


def last_error(s: Session) -> Event | None:
    """Return the newest event of level error."""
    query = select(Event).where(Event.level == "error").order_by(Event.number.desc())
    return s.scalars(query.limit(1)).first()
