"""Drain the question stream into the ledger, also while a step is running."""

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import pool, queries
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.streams import QuestionStream

logger = logging.getLogger(__name__)
IDLE_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
REQUIRED = {"id", "messages", "captured_at"}  # an entry without them would block the stream


class Drain:
    """A thread of the worker that holds the lease.

    An entry is acknowledged after its row is committed, so a crash between the two delivers it
    again and the row's id absorbs it. With each batch goes what the pool has too much of.
    """

    def __init__(
        self, stream: QuestionStream, sessions: sessionmaker[Session], *, keep: int
    ) -> None:
        self._stream = stream
        self._sessions = sessions
        self._keep = keep
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Start draining."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch at hand."""
        self._stop.set()
        self._thread.join(timeout=10.0)

    def drain_once(self) -> int:
        """Move one batch and return its size."""
        entries = self._stream.read()
        if entries:
            whole = [question for _, question in entries if question.keys() >= REQUIRED]
            if len(whole) < len(entries):
                logger.error("drain: dropped %d malformed entries", len(entries) - len(whole))
            with self._sessions.begin() as s:
                queries.add_questions(s, whole)
                pool.prune(s, self._keep)
            self._stream.acknowledge([entry_id for entry_id, _ in entries])
        return len(entries)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                moved = self.drain_once()
                self._failing = False
            except (StreamUnavailableError, SQLAlchemyError) as error:
                self._report(error)
                self._stop.wait(OUTAGE_SECONDS)
            else:
                self._stop.wait(0.0 if moved else IDLE_SECONDS)

    def _report(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("drain: questions wait in the stream: %s", error)
        self._failing = True
