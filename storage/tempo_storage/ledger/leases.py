"""One worker trains: a lease in SQL whose epoch fences the commits of whoever held it before."""

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
    lease.epoch, lease.owner, lease.expires_at = lease.epoch + 1, owner, now + ttl_seconds
    s.add(lease)
    s.flush()
    return lease.epoch


def renew(s: Session, name: str, epoch: int, ttl_seconds: float) -> None:
    """Extend the lease that `epoch` holds; raise LeaseLostError when it no longer does."""
    changed = s.execute(
        update(Lease)
        .where(Lease.name == name, Lease.epoch == epoch)
        .values(expires_at=time.time() + ttl_seconds)
        .returning(Lease.epoch)
    ).scalar_one_or_none()
    if changed is None:
        raise LeaseLostError(f"lease {name!r} moved on from epoch {epoch}; stop training here")


def assert_held(s: Session, name: str, epoch: int) -> None:
    """Fence a commit: raise LeaseLostError unless `epoch` is still the lease's."""
    held = s.execute(select(Lease.epoch).where(Lease.name == name).with_for_update()).scalar()
    if held != epoch:
        raise LeaseLostError(f"lease {name!r} is at epoch {held}, not {epoch}; commit refused")


@contextmanager
def fenced(sessions: sessionmaker[Session], epoch: int) -> Iterator[Session]:
    """Open a transaction that commits only while `epoch` is still the trainer's."""
    with sessions.begin() as s:
        assert_held(s, TRAINER, epoch)
        yield s


def release(s: Session, name: str, epoch: int) -> None:
    """Give the lease back so that a waiting worker need not wait for its expiry."""
    s.execute(update(Lease).where(Lease.name == name, Lease.epoch == epoch).values(expires_at=0.0))


def get(s: Session, name: str) -> Lease | None:
    """Return a lease, also an expired one."""
    return s.get(Lease, name)
