"""The audit: who changed what, from where. Rows are only added, and no route deletes one.

Each function of the ledger that makes a change of interest calls `record` in the transaction of the
change. A row has ids, names and numbers, and no text of a question or an answer.
"""

import socket
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tempo_storage.ledger.models import AuditRecord


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, and the address from which the request came."""

    name: str
    address: str


SETTINGS_CHANGED = "settings.changed"
# Without a request the gate, the schedule, the sentinel or the start of a process acts.
SYSTEM = Actor("system", socket.gethostname())
_actor: ContextVar[Actor] = ContextVar("tempo_actor", default=SYSTEM)


def act_as(actor: Actor) -> None:
    """Let `actor` be the one who makes the changes of this request."""
    _actor.set(actor)


def record(
    s: Session,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add a row: the acting key or process did `action` to the thing with the id `subject`."""
    actor = _actor.get()
    s.add(
        AuditRecord(
            actor=actor.name,
            address=actor.address,
            action=action,
            subject=subject,
            before=before or {},
            after=after or {},
        )
    )


def find(s: Session, *, before: int | None = None, limit: int = 100) -> list[AuditRecord]:
    """Return the rows, newest first; with `before`, a number, only those before it."""
    query = select(AuditRecord).order_by(AuditRecord.number.desc()).limit(limit)
    return list(s.scalars(query if before is None else query.where(AuditRecord.number < before)))


def record_settings(s: Session, values: Mapping[str, Any]) -> None:
    """Add a row with the settings of learning that differ from those of the rows before."""
    query = select(AuditRecord.after).where(AuditRecord.action == SETTINGS_CHANGED)
    known: dict[str, Any] = {}
    for after in s.scalars(query.order_by(AuditRecord.number)):
        known |= after
    changed = {name: value for name, value in values.items() if known.get(name, ...) != value}
    if changed:
        before = {name: known[name] for name in changed if name in known}
        record(s, SETTINGS_CHANGED, "settings", before=before, after=changed)
