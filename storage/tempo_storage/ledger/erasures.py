"""Erasures: the times at which tenants' questions were erased.

A question may be on its way from a server to the ledger while its tenant's are erased: in a spool,
in the stream, in the worker's hands. Each of these places asks here, and drops it.
"""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tempo_storage.ledger.models import Erasure

Times = dict[str, float]
"""The time of the last erasure by tenant."""


def record(s: Session, tenant: str) -> float:
    """Record that the questions that a tenant has asked so far are erased; return the time."""
    erased_at = time.time()
    s.merge(Erasure(tenant=tenant, erased_at=erased_at))
    return erased_at


def since(s: Session, moment: float) -> Times:
    """Return the erasures after a time."""
    rows = s.execute(select(Erasure.tenant, Erasure.erased_at).where(Erasure.erased_at > moment))
    return {tenant: erased_at for tenant, erased_at in rows}


def remaining(s: Session, captured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the captured questions without the erased ones."""
    tenants = {str(record.get("tenant") or "") for record in captured}
    ids = filter(str.isprintable, tenants)  # PostgreSQL refuses to look for a NUL or a surrogate
    rows = s.execute(select(Erasure.tenant, Erasure.erased_at).where(Erasure.tenant.in_(ids)))
    times = {tenant: erased_at for tenant, erased_at in rows}
    return [record for record in captured if not is_erased(record, times)]


def is_erased(record: dict[str, Any], times: Times) -> bool:
    """Tell whether a captured question is older than the erasure of its tenant's questions.

    One without a time that can be compared counts as older.
    """
    erased_at = times.get(str(record.get("tenant") or ""))
    captured_at = record.get("captured_at")
    if erased_at is None:
        return False
    return not isinstance(captured_at, int | float) or captured_at <= erased_at
