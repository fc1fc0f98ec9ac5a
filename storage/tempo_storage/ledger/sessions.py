"""Sessions with the ledger. Readers wait for nobody; writers wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage.ledger.engine import READS, connect
from tempo_storage.ledger.migrations import migrate


def open_database(url: str) -> sessionmaker[Session]:
    """Connect, bring the schema up to date, and return a factory of sessions."""
    engine = connect(url)
    migrate(engine)
    return Sessions(engine)


class Sessions(sessionmaker[Session]):
    """`with sessions() as s` only reads; `with sessions.begin() as s` may write."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.execution_options(**READS), expire_on_commit=False)
        self._writing = engine

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Open a transaction; commit it at the end of the block, or roll it back on an error."""
        with self(bind=self._writing) as s, s.begin():
            yield s
