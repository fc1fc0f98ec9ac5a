"""Say so when the stream of questions stalls: entries wait, and none moves for a minute."""

import contextlib
import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.streams import STALL_SECONDS, QuestionStream

logger = logging.getLogger("tempo.worker")
LOOK_SECONDS = 5.0
STALLED = (
    f"users' questions wait in Valkey, and none reached the ledger for {STALL_SECONDS} s; read the"
    " worker's log, check the ledger's database and its disk"
)
FLOWING = "users' questions reach the ledger again"


@dataclass(slots=True)
class StallWatch:
    """Looks at the stream in a thread of its own, because the reader's thread may hang."""

    stream: QuestionStream
    sessions: sessionmaker[Session]
    has_stalled: bool = False
    """As the last event says."""

    def step(self) -> float:
        """Look once; return the seconds until the next look."""
        # While Valkey is away nobody knows. While the ledger is away the event waits for it.
        with contextlib.suppress(StreamUnavailableError, SQLAlchemyError):
            has_stalled = self.stream.has_stalled()
            if has_stalled != self.has_stalled:
                self._report(has_stalled)
                self.has_stalled = has_stalled
        return LOOK_SECONDS

    def _report(self, has_stalled: bool) -> None:
        message = STALLED if has_stalled else FLOWING
        type, level = ("stalled", "error") if has_stalled else ("flowing", "info")
        with self.sessions.begin() as s:
            ledger.events.add(s, f"questions.{type}", message, level=level)
        logger.warning("stream: %s", message)
