"""Let the erasures that the ledger records reach this process's spool."""

import asyncio
import logging

from sqlalchemy.orm import Session, sessionmaker

from tempo_server.capture.spool import Spool
from tempo_storage import ledger
from tempo_storage.failures import reason

logger = logging.getLogger("vllm.tempo.capture")


async def erase(spool: Spool, sessions: sessionmaker[Session]) -> None:
    """Remove from the spool what was erased since the last call; raise SQLAlchemyError."""

    def read() -> ledger.erasures.Times:
        with sessions() as s:
            return ledger.erasures.since(s, spool.counters.erased_to)

    if times := await asyncio.to_thread(read):
        await spool.erase(times)


async def erase_for_ever(
    spool: Spool, sessions: sessionmaker[Session], pause_seconds: float
) -> None:
    """Call `erase` again and again; log the first failure in a row."""
    is_failing = False
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            await erase(spool, sessions)
            is_failing = False
        except Exception as error:  # it would end the task, and nothing would be erased any more
            if not is_failing:
                logger.warning("the spool cannot learn of erasures: %s", reason(error))
            is_failing = True
