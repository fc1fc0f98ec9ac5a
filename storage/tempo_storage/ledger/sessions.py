"""Sessions with the ledger: those that read wait for nobody, those that write are serialised."""

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
    """`with sessions() as s` reads and waits for nobody, `with sessions.begin() as s` may write."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.execution_options(**READS), expire_on_commit=False)
        self._writing = engine

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end of the block, undone where it fails."""
        with self(bind=self._writing) as s, s.begin():
            yield s
