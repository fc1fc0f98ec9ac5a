"""The ledger: the rows that server and trainer share. The caller's session decides when it commits.

from tempo_storage import ledger
with sessions() as s:
    job = ledger.jobs.get(s, job_id)
"""

from tempo_storage.ledger import audit as audit
from tempo_storage.ledger import dead_letters as dead_letters
from tempo_storage.ledger import erasures as erasures
from tempo_storage.ledger import events as events
from tempo_storage.ledger import gate_tests as gate_tests
from tempo_storage.ledger import jobs as jobs
from tempo_storage.ledger import keys as keys
from tempo_storage.ledger import labeled as labeled
from tempo_storage.ledger import learned as learned
from tempo_storage.ledger import leases as leases
from tempo_storage.ledger import pool as pool
from tempo_storage.ledger import published as published
from tempo_storage.ledger import tenants as tenants
from tempo_storage.ledger import training as training
from tempo_storage.ledger import versions as versions
