"""Keep an embedded Valkey running, from one thread that lives as long as the process.

Linux ends the server when the *thread* that started it ends. A start-up thread or one of the event
loop's short-lived threads must therefore not start it.
"""

import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from tempo_storage.errors import StreamUnavailableError
from tempo_storage.valkey.server import EmbeddedValkey

logger = logging.getLogger("vllm.tempo.valkey")

CHECK_SECONDS = 1.0


def keep_running(data_dir: Path) -> str:
    """Start or join the data directory's Valkey, keep it running, and return its URL.

    Raises StreamUnavailableError if it does not start; a later failure is logged and tried again.
    """
    valkey = EmbeddedValkey(data_dir)
    started: Future[None] = Future()
    threading.Thread(
        target=_supervise, args=(valkey, started), name="tempo-valkey", daemon=True
    ).start()
    started.result()
    return valkey.url


def _supervise(valkey: EmbeddedValkey, started: Future[None]) -> None:
    try:
        valkey.start()
    except Exception as error:
        started.set_exception(error)
        return
    started.set_result(None)
    while True:
        time.sleep(CHECK_SECONDS)
        try:
            if valkey.restart_if_dead():
                logger.warning("Valkey had ended; it runs again")
        except (StreamUnavailableError, OSError) as error:
            logger.warning("Valkey cannot be started: %s", error)
