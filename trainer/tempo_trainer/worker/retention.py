"""Delete captured questions that are older than TEMPO_RETENTION_DAYS."""

import logging
import time
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.failures import reason
from tempo_storage.ledger.scrub import scrub
from tempo_storage.valkey.streams import Captured, QuestionStream

logger = logging.getLogger("tempo.worker")
HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS
PASSES = 24  # in the time that a question is kept, and at least one a day


@dataclass(frozen=True, slots=True)
class Retention:
    """Deletes in a thread of the worker that holds the lease; the spools look after themselves."""

    stream: QuestionStream
    sessions: sessionmaker[Session]
    days: float
    """0: nothing is deleted for its age."""

    def step(self) -> float:
        """Delete what is too old; return the seconds until the next time."""
        if not self.days:
            return DAY_SECONDS
        try:
            self.expire(time.time() - self.days * DAY_SECONDS)
        except (StreamUnavailableError, SQLAlchemyError) as error:
            logger.warning("retention: old questions are still there: %s", reason(error))
            return min(self._pause_seconds(), HOUR_SECONDS)
        return self._pause_seconds()

    def expire(self, before: float) -> None:
        """Delete the questions captured before a time, and the traces of all deleted ones.

        Raises StreamUnavailableError or SQLAlchemyError.
        """
        with self.sessions.begin() as s:
            expired = ledger.pool.expire(s, before) + ledger.dead_letters.expire(s, before)
            if expired:
                message = f"{expired} questions older than {self.days:g} days are deleted"
                ledger.events.add(s, "questions.expired", message)
        if expired and (fault := scrub(self.sessions.kw["bind"])):
            logger.warning("retention: traces of deleted questions remain in the ledger: %s", fault)
        self.stream.delete(lambda question: _is_old(question, before))
        self.stream.rewrite_log()  # it holds also questions that reached the ledger long ago

    def _pause_seconds(self) -> float:
        return min(self.days * DAY_SECONDS / PASSES, DAY_SECONDS)


def _is_old(question: Captured, before: float) -> bool:
    captured_at = question.get("captured_at")
    return isinstance(captured_at, int | float) and captured_at < before
