"""The ledger: what server and trainer ask of SQL. The caller's session decides when it commits.

from tempo_storage import ledger
with sessions() as s:
    job = ledger.jobs.get(s, job_id)
"""

from tempo_storage.ledger import (
    events,
    jobs,
    keys,
    labeled,
    leases,
    lineage,
    pool,
    questions,
    training,
    versions,
)

__all__ = [
    "events",
    "jobs",
    "keys",
    "labeled",
    "leases",
    "lineage",
    "pool",
    "questions",
    "training",
    "versions",
]
