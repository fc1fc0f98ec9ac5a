"""Move captured questions from the stream into the ledger, also while a job runs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import failures, ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.streams import Captured, QuestionStream

logger = logging.getLogger("tempo.worker")
IDLE_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
TRIES = 3
REQUIRED = {"id", "messages", "captured_at"}
Entry = tuple[str, Captured]
UNAVAILABLE = (OperationalError, InterfaceError)  # the database: the entries wait in the stream


@dataclass(slots=True)
class StreamReader:
    """Reads the stream in a thread of the worker that holds the lease.

    An entry is acknowledged after its row is committed. A crash between the two delivers it again,
    and the id of the row keeps it from being stored twice. Each batch also deletes some of the
    pool's surplus beyond `keep` questions.
    """

    stream: QuestionStream
    sessions: sessionmaker[Session]
    keep: int
    is_failing: bool = False
    """True if the last batch failed; only the first failure in a row is logged."""

    def step(self) -> float:
        """Move one batch; return the seconds until the next look at the stream."""
        try:
            moved = self.move_batch()
        except (StreamUnavailableError, SQLAlchemyError) as error:
            if not self.is_failing:
                logger.warning("stream: questions wait in the stream: %s", failures.reason(error))
            self.is_failing = True
            return OUTAGE_SECONDS
        self.is_failing = False
        return 0.0 if moved else IDLE_SECONDS

    def move_batch(self) -> int:
        """Move one batch and return its size."""
        entries = self.stream.read()
        if entries:
            self._store(entries)
            self.stream.acknowledge([entry_id for entry_id, _ in entries])
        return len(entries)

    def _store(self, entries: Sequence[Entry]) -> None:
        """Store a batch; if that fails, store each entry by itself."""
        try:
            with self.sessions.begin() as s:
                ledger.pool.add(s, [_readable(question) for _, question in entries])
                ledger.pool.prune(s, self.keep)
        except UNAVAILABLE:
            raise
        except Exception:  # an entry of the batch, whatever is wrong with it
            for entry in entries:
                self._store_alone(*entry)

    def _store_alone(self, entry_id: str, question: Captured) -> None:
        """Store an entry; after three failures put it aside, so that the others flow."""
        reason = ""
        for _ in range(TRIES):
            try:
                with self.sessions.begin() as s:
                    ledger.pool.add(s, [_readable(question)])
                return
            except UNAVAILABLE:
                raise
            except Exception as error:
                # The class alone, because the message may quote the question.
                reason = type(getattr(error, "orig", None) or error).__name__
        with self.sessions.begin() as s:
            ledger.dead_letters.add(s, entry_id, question, reason=reason)
        logger.error("stream: entry %s cannot be stored (%s); it is set aside", entry_id, reason)


def _readable(question: Captured) -> Captured:
    if not question.keys() >= REQUIRED:
        raise KeyError(*sorted(REQUIRED - question.keys()))
    return question
