"""Drain the question stream into the ledger, also while a step is running."""

import logging

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.streams import QuestionStream

logger = logging.getLogger(__name__)
IDLE_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
REQUIRED = {"id", "messages", "captured_at"}  # an entry without them would block the stream


class Drain:
    """What a thread of the worker that holds the lease does.

    An entry is acknowledged after its row is committed, so a crash between the two delivers it
    again and the row's id absorbs it. With each batch goes what the pool has too much of.
    """

    def __init__(
        self, stream: QuestionStream, sessions: sessionmaker[Session], *, keep: int
    ) -> None:
        self._stream = stream
        self._sessions = sessions
        self._keep = keep
        self._failing = False

    def step(self) -> float:
        """Move one batch; return the seconds after which the next one is to be looked for."""
        try:
            moved = self.drain_once()
        except (StreamUnavailableError, SQLAlchemyError) as error:
            if not self._failing:
                logger.warning("drain: questions wait in the stream: %s", error)
            self._failing = True
            return OUTAGE_SECONDS
        self._failing = False
        return 0.0 if moved else IDLE_SECONDS

    def drain_once(self) -> int:
        """Move one batch and return its size."""
        entries = self._stream.read()
        if entries:
            whole = [question for _, question in entries if question.keys() >= REQUIRED]
            if len(whole) < len(entries):
                logger.error("drain: dropped %d malformed entries", len(entries) - len(whole))
            with self._sessions.begin() as s:
                ledger.questions.add(s, whole)
                ledger.pool.prune(s, self._keep)
            self._stream.acknowledge([entry_id for entry_id, _ in entries])
        return len(entries)
