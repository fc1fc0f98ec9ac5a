"""Keep an embedded Valkey running, from one thread that lives as long as the process.

Linux ends the child when the *thread* that started it ends, so neither the event loop's short-lived
helpers nor a start-up thread may own it.
"""

import logging
import threading
import time
from pathlib import Path

import redis

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.streams import redis_client
from tempo_storage.valkey import EmbeddedValkey

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


def keep_running(data_dir: Path) -> str:
    """Start or join the data directory's Valkey, keep it running, and return its URL."""
    valkey = EmbeddedValkey(data_dir)
    outcome: list[Exception] = []
    started = threading.Event()

    def supervise() -> None:
        try:
            valkey.start()
        except Exception as error:
            outcome.append(error)
        started.set()
        while not outcome:
            time.sleep(CHECK_SECONDS)
            _revive(valkey)

    threading.Thread(target=supervise, name="tempo-valkey", daemon=True).start()
    started.wait()
    if outcome:
        raise outcome[0]
    return valkey.url


def _revive(valkey: EmbeddedValkey) -> None:
    try:
        if valkey.restart_if_dead():
            logger.warning("Valkey had died and was started again")
        elif valkey.process is None and not _answers(valkey):
            valkey.stop()  # its owner is gone: own it, or join whoever was faster
            valkey.start()
    except (StreamUnavailableError, OSError) as error:
        logger.warning("Valkey cannot be started: %s", error)


def _answers(valkey: EmbeddedValkey) -> bool:
    try:
        return bool(redis_client(valkey.url).ping())
    except (redis.RedisError, OSError):
        return False
