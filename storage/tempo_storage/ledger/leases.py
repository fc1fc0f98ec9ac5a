"""Let one worker train at a time.

The trainer's lease is a row with an owner, an expiry and an epoch. Each new owner raises the epoch.
A commit names the epoch that its worker holds and fails if another worker has taken the lease
since.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import Lease

TRAINER = "trainer"


def acquire(s: Session, owner: str, ttl_seconds: float) -> int | None:
    """Take a free or expired lease and return its new epoch; None while another owner holds it."""
    now = time.time()
    new = Lease(name=TRAINER, epoch=0, owner=owner, expires_at=0.0)
    lease = s.get(Lease, TRAINER, with_for_update=True) or new
    if lease.expires_at > now and lease.owner != owner:
        return None
    lease.epoch += 1
    lease.owner = owner
    lease.expires_at = now + ttl_seconds
    s.add(lease)
    s.flush()
    return lease.epoch


def renew(s: Session, epoch: int, ttl_seconds: float) -> None:
    """Extend the lease; raise LeaseLostError unless `epoch` still holds it."""
    _locked(s, epoch, "stop training here").expires_at = time.time() + ttl_seconds


@contextmanager
def fenced(sessions: sessionmaker[Session], epoch: int) -> Iterator[Session]:
    """Open a transaction; raise LeaseLostError unless `epoch` still holds the lease."""
    with sessions.begin() as s:
        _locked(s, epoch, "commit refused")
        yield s


def release(s: Session, epoch: int) -> None:
    """End the lease if `epoch` holds it, so that another worker need not wait for its expiry."""
    s.execute(update(Lease).where(Lease.epoch == epoch).values(expires_at=0.0))


def current(s: Session) -> Lease | None:
    """Return the lease that a worker holds now; None if it is free or has expired."""
    return s.scalars(select(Lease).where(Lease.expires_at > time.time())).first()


def _locked(s: Session, epoch: int, remedy: str) -> Lease:
    """Return the lease, which nobody else can take until this transaction ends."""
    lease = s.get(Lease, TRAINER, with_for_update=True)
    if lease is None or lease.epoch != epoch:
        holder = lease.epoch if lease else None
        raise LeaseLostError(f"lease {TRAINER!r} is at epoch {holder}, not {epoch}; {remedy}")
    return lease
