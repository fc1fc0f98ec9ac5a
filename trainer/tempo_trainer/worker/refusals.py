"""Tell the operator that another program writes to the worker's Valkey."""

import logging
import time
from dataclasses import dataclass, field

from tempo_storage import ledger
from tempo_storage.valkey.doorbell import Refused
from tempo_trainer.sessions import LeasedSessions

logger = logging.getLogger("tempo.worker")
EVENT_SECONDS = (
    60.0  # between two events, however much is refused: a flood must not fill the ledger
)


@dataclass(slots=True)
class Refusals:
    """Counts what the doorbell refused, and writes an event at most once a minute."""

    sessions: LeasedSessions
    jobs: int = 0
    commands: int = 0
    _last_event: float = field(default=-EVENT_SECONDS, init=False)

    def add(self, refused: Refused) -> None:
        """Count; raises LeaseLostError or SQLAlchemyError where the event cannot be written."""
        self.jobs += refused.jobs
        self.commands += refused.commands
        is_due = time.monotonic() - self._last_event >= EVENT_SECONDS
        if not (self.jobs or self.commands) or not is_due:
            return
        message = (
            f"another program writes to this Valkey: {self.jobs} jobs that are not ours and "
            f"{self.commands} commands to workers were refused; give it a password, or a Valkey of "
            "its own"
        )
        data = {"jobs": self.jobs, "commands": self.commands}
        with self.sessions.write() as s:
            ledger.events.add(s, "doorbell.refused", message, level="error", data=data)
        logger.warning(message)
        self._last_event = time.monotonic()
        self.jobs = 0
        self.commands = 0
