"""Keep an embedded Valkey running, from one thread that lives as long as the process.

Linux ends the child when the *thread* that started it ends, so neither the event loop's short-lived
helpers nor a start-up thread may own it.
"""

import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.server import EmbeddedValkey

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


def keep_running(data_dir: Path) -> str:
    """Start or join the data directory's Valkey, keep it running, and return its URL."""
    valkey = EmbeddedValkey(data_dir)
    started: Future[None] = Future()

    def supervise() -> None:
        try:
            valkey.start()
        except Exception as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while True:
            time.sleep(CHECK_SECONDS)
            _revive(valkey)

    threading.Thread(target=supervise, name="tempo-valkey", daemon=True).start()
    started.result()
    return valkey.url


def _revive(valkey: EmbeddedValkey) -> None:
    try:
        if valkey.restart_if_dead():
            logger.warning("Valkey had died and was started again")
        elif valkey.process is None and not valkey.answers():
            valkey.stop()  # its owner is gone: own it, or join whoever was faster
            valkey.start()
    except (StreamUnavailableError, OSError) as error:
        logger.warning("Valkey cannot be started: %s", error)
