"""Move captured questions from the stream into the ledger, also while a job runs."""

import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.streams import QuestionStream

logger = logging.getLogger("tempo.worker")
IDLE_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
REQUIRED = {"id", "messages", "captured_at"}  # an entry without them would block the stream


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
                logger.warning("stream: questions wait in the stream: %s", error)
            self.is_failing = True
            return OUTAGE_SECONDS
        self.is_failing = False
        return 0.0 if moved else IDLE_SECONDS

    def move_batch(self) -> int:
        """Move one batch and return its size."""
        entries = self.stream.read()
        if entries:
            questions = [question for _, question in entries if question.keys() >= REQUIRED]
            if len(questions) < len(entries):
                logger.error("stream: dropped %d malformed entries", len(entries) - len(questions))
            with self.sessions.begin() as s:
                ledger.pool.add(s, questions)
                ledger.pool.prune(s, self.keep)
            self.stream.acknowledge([entry_id for entry_id, _ in entries])
        return len(entries)
