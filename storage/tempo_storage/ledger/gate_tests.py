"""The gate's tests: how often it has judged by the held-out questions of today.

Each test of a candidate that is no better may pass by chance, so the gate bounds their number. The
tests count anew when the held-out questions change (the digest does), and when an operator says so.
"""

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from tempo_storage.ledger import labeled
from tempo_storage.ledger.models import GateTest, Job


def record(
    s: Session, job_id: str, version: int, *, promoted: bool, held_out: str = ""
) -> None:
    """Add the test that a job made of a version.

    `held_out` is the digest of the questions that it asked; "": those of today.
    """
    digest = held_out or labeled.held_out_digest(s)
    s.add(GateTest(job_id=job_id, version=version, held_out=digest, promoted=promoted))
    s.flush()


def count(s: Session) -> int:
    """Return the number of tests that count."""
    query = select(func.count()).select_from(GateTest)
    return s.scalar(query.where(*_that_count(s))) or 0


def refusals(s: Session) -> int:
    """Return how many of the newest tests that count, one after another, promoted nothing."""
    tests = _that_count(s)
    promoted_at = select(func.max(GateTest.created_at)).where(*tests, GateTest.promoted.is_(True))
    since = s.scalar(promoted_at) or 0.0
    query = select(func.count()).select_from(GateTest).where(*tests, GateTest.created_at > since)
    return s.scalar(query) or 0


def rounds_since(s: Session) -> int:
    """Return the number of succeeded rounds that began after the newest test that counts.

    Without such a test it is 0.
    """
    tested_at = s.scalar(select(func.max(GateTest.created_at)).where(*_that_count(s)))
    if tested_at is None:
        return 0
    rounds = Job.mode == "round", Job.status == "succeeded", Job.created_at > tested_at
    return s.scalar(select(func.count()).select_from(Job).where(*rounds)) or 0


def start_anew(s: Session) -> None:
    """Let no test so far count any more."""
    s.execute(update(GateTest).values(counted=False))


def _that_count(s: Session) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return GateTest.counted.is_(True), GateTest.held_out == labeled.held_out_digest(s)
