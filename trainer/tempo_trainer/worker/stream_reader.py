"""Move captured questions from the stream into the ledger, also while a job runs."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from tempo_storage import failures, ledger
from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.streams import Captured, QuestionStream

logger = logging.getLogger("tempo.worker")
IDLE_SECONDS = 0.2
OUTAGE_SECONDS = 1.0
TRIES = 3
REQUIRED = {"id", "messages", "captured_at"}
NAMES = ("id", "tenant", "content_hash", "loose_hash")  # an index of PostgreSQL takes no long text
MAX_NAME = 64
Entry = tuple[str, Captured]


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
    quarantine: int = 0
    """Questions that a new tenant asks before training learns from them."""
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
            self._add([question for _, question in entries])
        except Exception:  # an entry of the batch, or the database
            for entry in entries:
                self._store_alone(*entry)

    def _store_alone(self, entry_id: str, question: Captured) -> None:
        """Store an entry; after three failures put it aside, so that the others flow.

        Raises SQLAlchemyError if the ledger takes no other write either: then the entries wait.
        """
        reason = ""
        for _ in range(TRIES):
            try:
                self._add([question])
                return
            except Exception as error:
                # The class alone, because the message may quote the question.
                reason = type(getattr(error, "orig", None) or error).__name__
            # The class of an error does not tell whether the entry or the database is at fault.
            with self.sessions.begin() as s:
                ledger.training.lock(s)
        with self.sessions.begin() as s:
            ledger.dead_letters.add(s, entry_id, question, reason=reason)
        logger.error("stream: entry %s cannot be stored (%s); it is set aside", entry_id, reason)

    def _add(self, questions: Sequence[Captured]) -> None:
        checked = [_checked(question) for question in questions]
        with self.sessions.begin() as s:
            ledger.pool.add(s, checked, keep=self.keep, quarantine=self.quarantine)


def _checked(question: Captured) -> Captured:
    """Return a question whose fields have the right types; its time is not in the future.

    Raises KeyError, TypeError or ValueError for what no server of ours writes.
    """
    if not question.keys() >= REQUIRED:
        raise KeyError(*sorted(REQUIRED - question.keys()))
    for name in NAMES:
        value = question.get(name) or ""
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        if len(value) > MAX_NAME:
            raise ValueError(f"{name} has more than {MAX_NAME} characters")
    arguments = question.get("chat_template_kwargs") or {}
    if not isinstance(question["messages"], list) or not isinstance(arguments, dict):
        raise TypeError("messages are no list, or chat_template_kwargs no object")
    captured_at = float(question["captured_at"])
    if not math.isfinite(captured_at):
        raise ValueError("captured_at is not finite")
    return question | {"captured_at": min(captured_at, time.time())}
