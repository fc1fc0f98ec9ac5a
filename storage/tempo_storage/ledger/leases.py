"""Let one worker train at a time.

A lease is a row with an owner, an expiry and an epoch. Each new owner raises the epoch. A commit
names the epoch that its worker holds and fails if another worker has taken the lease since.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage.errors import LeaseLostError
from tempo_storage.ledger.models import Lease

TRAINER = "trainer"


def acquire(s: Session, name: str, owner: str, ttl_seconds: float) -> int | None:
    """Take a free or expired lease and return its new epoch; None while another owner holds it."""
    now = time.time()
    new = Lease(name=name, epoch=0, owner=owner, expires_at=0.0)
    lease = s.get(Lease, name, with_for_update=True) or new
    if lease.expires_at > now and lease.owner != owner:
        return None
    lease.epoch += 1
    lease.owner = owner
    lease.expires_at = now + ttl_seconds
    s.add(lease)
    s.flush()
    return lease.epoch


def renew(s: Session, name: str, epoch: int, ttl_seconds: float) -> None:
    """Extend the lease that `epoch` holds; raise LeaseLostError if it holds it no longer."""
    changed = s.execute(
        update(Lease)
        .where(Lease.name == name, Lease.epoch == epoch)
        .values(expires_at=time.time() + ttl_seconds)
        .returning(Lease.epoch)
    ).scalar_one_or_none()
    if changed is None:
        raise LeaseLostError(f"lease {name!r} moved on from epoch {epoch}; stop training here")


@contextmanager
def fenced(sessions: sessionmaker[Session], epoch: int) -> Iterator[Session]:
    """Open a transaction; raise LeaseLostError unless `epoch` still holds the trainer's lease."""
    with sessions.begin() as s:
        lease = select(Lease.epoch).where(Lease.name == TRAINER).with_for_update()
        current = s.scalar(lease)
        if current != epoch:
            raise LeaseLostError(
                f"lease {TRAINER!r} is at epoch {current}, not {epoch}; commit refused"
            )
        yield s


def release(s: Session, name: str, epoch: int) -> None:
    """End the lease that `epoch` holds, so that another worker need not wait for its expiry."""
    s.execute(update(Lease).where(Lease.name == name, Lease.epoch == epoch).values(expires_at=0.0))


def get(s: Session, name: str) -> Lease | None:
    """Return a lease, expired or not; None if nobody has ever held it."""
    return s.get(Lease, name)
