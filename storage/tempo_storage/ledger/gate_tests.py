"""The gate's tests: how often it has asked a set of held-out questions about a candidate.

Each test of a candidate that is no better may pass by chance, so the gate bounds their number for
a set of questions. `held_out` is the digest of the set (`labeled.digest`). A set with another
question or another reference has another digest, and so no tests yet. An operator can reset the
number.
"""

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from tempo_storage.ledger import audit
from tempo_storage.ledger.models import GateTest, Job


def record(s: Session, job_id: str, version: int, *, promoted: bool, held_out: str) -> None:
    """Add the test that a job made of a version."""
    s.add(GateTest(job_id=job_id, version=version, held_out=held_out, promoted=promoted))
    s.flush()


def count(s: Session, held_out: str) -> int:
    """Return the number of tests that count."""
    query = select(func.count()).select_from(GateTest)
    return s.scalar(query.where(*_counted(held_out))) or 0


def refusals(s: Session, held_out: str) -> int:
    """Return how many of the newest tests that count, one after another, promoted nothing."""
    tests = _counted(held_out)
    promoted_at = select(func.max(GateTest.created_at)).where(*tests, GateTest.promoted.is_(True))
    since = s.scalar(promoted_at) or 0.0
    query = select(func.count()).select_from(GateTest).where(*tests, GateTest.created_at > since)
    return s.scalar(query) or 0


def rounds_since(s: Session, held_out: str) -> int:
    """Return the number of succeeded rounds that started after the newest test that counts.

    Without such a test it is 0.
    """
    tested_at = s.scalar(select(func.max(GateTest.created_at)).where(*_counted(held_out)))
    if tested_at is None:
        return 0
    rounds = Job.mode == "round", Job.status == "succeeded", Job.started_at > tested_at
    return s.scalar(select(func.count()).select_from(Job).where(*rounds)) or 0


def reset(s: Session) -> None:
    """Start the number of tests again at 0, for each set of questions."""
    tests = s.scalar(select(func.count()).where(GateTest.counted.is_(True)))
    audit.record(s, "gate.reset", "tests", before={"tests": tests}, after={"tests": 0})
    s.execute(update(GateTest).values(counted=False))


def _counted(held_out: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return GateTest.counted.is_(True), GateTest.held_out == held_out
