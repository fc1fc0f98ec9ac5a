"""Repeat a step in a thread beside the main thread."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("tempo.worker")
JOIN_SECONDS = 10.0
FAILURE_SECONDS = 1.0


@contextmanager
def repeated_in_thread(step: Callable[[], float], pause_seconds: float = 0.0) -> Iterator[None]:
    """Call `step` in a thread until the block ends, each time after a pause.

    The first pause is `pause_seconds`; each later pause is the number that `step` returned. A step
    that fails is logged and repeated after a second: its thread must not end before the block.
    """
    ended = threading.Event()

    def run() -> None:
        seconds = pause_seconds
        while not ended.wait(seconds):
            try:
                seconds = step()
            except Exception as error:  # its text may quote a question
                logger.error("a step in the background failed (%s)", type(error).__name__)
                seconds = FAILURE_SECONDS

    thread = threading.Thread(target=run, name="tempo-repeated", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN_SECONDS)
