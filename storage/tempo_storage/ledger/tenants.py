"""Tenants: who asks, and how much of the pool and of a batch one of them may fill.

A tenant fills a quarter, or 1 / n where only n tenants asked within a week and n is below 4. The
server decides who a tenant is (`capture/tenants.py`). A question that several tenants ask belongs
to its owner, the one that asked first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, func, select, update
from sqlalchemy.orm import Session

from tempo_storage.ledger import audit, events
from tempo_storage.ledger.models import Question, Tenant
from tempo_storage.ledger.rows import require

WINDOW_SECONDS = 7 * 86_400.0
MIN_SHARE = 4  # a quarter
MAX_TENANTS = 10_000  # whose rows are kept; the ones that asked last
ANONYMOUS = "anonymous"
"""The name, for people, of the tenant whose id is ""."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A tenant with the number of its questions in the ledger, repeats included."""

    id: str
    questions: int
    last_asked_at: float
    quarantined: bool


def find(s: Session) -> list[Asked]:
    """Return the tenants that have questions in the ledger, the largest number first."""
    count = func.count()
    query = select(Question.tenant, count, func.max(Question.captured_at))
    rows = s.execute(query.group_by(Question.tenant).order_by(count.desc(), Question.tenant))
    quarantined = set(s.scalars(_quarantined()))
    return [Asked(tenant, n, last, tenant in quarantined) for tenant, n, last in rows]


def record(
    s: Session, rows: Sequence[Question], new: Mapping[str, int], *, quarantine: int = 0
) -> None:
    """Record that tenants asked these rows, and how many of their questions nobody asked before.

    A new tenant is in quarantine until it asked `quarantine` questions, or an operator admits it.
    """
    ids = {row.tenant for row in rows}
    stored = {row.id: row for row in s.scalars(select(Tenant).where(Tenant.id.in_(ids)))}
    for row in rows:
        tenant = stored.get(row.tenant)
        if tenant is None:
            tenant = Tenant(id=row.tenant, questions=0, last_asked_at=0.0, quarantined=True)
            stored[row.tenant] = tenant
        tenant.last_asked_at = max(tenant.last_asked_at, row.captured_at)
    for owner, count in new.items():
        stored[owner].questions += count
    s.add_all(stored.values())
    s.flush()
    enough = Tenant.quarantined, Tenant.questions >= quarantine
    s.execute(update(Tenant).where(*enough).values(quarantined=False))
    _forget_oldest(s)


def admit(s: Session, tenant: str) -> Tenant:
    """End the quarantine of a tenant; raise NotFoundError for one that never asked."""
    name = tenant or ANONYMOUS
    row = require(s.get(Tenant, tenant), "tenant", name)
    before = {"quarantined": row.quarantined}
    row.quarantined = False
    message = f"the tenant {name} was admitted: training learns from its questions"
    events.add(s, "tenant.admitted", message, data={"tenant": tenant})
    audit.record(s, "tenant.admitted", name, before=before, after={"quarantined": False})
    return row


def is_admitted() -> ColumnElement[bool]:
    """Return the condition that the tenant of a question is not in quarantine."""
    return Question.tenant.not_in(_quarantined())


def allowance(s: Session, whole: int) -> int:
    """Return how many of `whole` questions may belong to one tenant: at least one."""
    newest = s.scalar(select(func.max(Tenant.last_asked_at))) or 0.0
    recent = Tenant.last_asked_at > newest - WINDOW_SECONDS
    active = s.scalar(select(func.count()).select_from(Tenant).where(recent)) or 1
    return max(1, whole // min(active, MIN_SHARE))


def held(s: Session) -> Counter[str]:
    """Return how many distinct questions of the pool belong to each tenant."""
    distinct = func.count(func.distinct(Question.pool_hash))
    rows = s.execute(select(Question.owner, distinct).group_by(Question.owner))
    return Counter({owner: count for owner, count in rows})


def _quarantined() -> Select[str]:
    return select(Tenant.id).where(Tenant.quarantined)


def _forget_oldest(s: Session) -> None:
    """Delete the rows of tenants beyond MAX_TENANTS, because addresses make many tenants."""
    surplus = (s.scalar(select(func.count()).select_from(Tenant)) or 0) - MAX_TENANTS
    if surplus > 0:
        oldest = select(Tenant.id).order_by(Tenant.last_asked_at, Tenant.id).limit(surplus)
        s.execute(delete(Tenant).where(Tenant.id.in_(oldest)))
