"""Repeat a step in a thread beside the main thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

JOIN_SECONDS = 10.0


@contextmanager
def repeated_in_thread(step: Callable[[], float], pause_seconds: float = 0.0) -> Iterator[None]:
    """Call `step` in a thread until the block ends, each time after a pause.

    The first pause is `pause_seconds`; each later pause is the number that `step` returned.
    """
    ended = threading.Event()

    def run() -> None:
        seconds = pause_seconds
        while not ended.wait(seconds):
            seconds = step()

    thread = threading.Thread(target=run, name="tempo-repeated", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN_SECONDS)
