"""Sessions of a worker with the ledger: it may always read, and write while it holds the lease."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger


@dataclass(frozen=True, slots=True)
class LeasedSessions:
    """Sessions whose writes are fenced: after another worker took the lease, they are refused."""

    sessions: sessionmaker[Session]
    epoch: Callable[[], int]
    """Returns the number of the lease that this worker took; each new holder has a greater one."""

    def read(self) -> Session:
        """Open a session that reads; it waits for no writer."""
        return self.sessions()

    def write(self) -> AbstractContextManager[Session]:
        """Open a transaction and commit it at the end of the block.

        Raises LeaseLostError, and writes nothing, if another worker holds the lease.
        """
        return ledger.leases.fenced(self.sessions, self.epoch())
