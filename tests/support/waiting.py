"""Wait until something is true."""

import time
from collections.abc import Callable
from typing import Any

PAUSE_SECONDS = 0.05  # a claim often asks a server that is busy with what it waits for


def eventually(
    claim: Callable[[], Any], *, seconds: float = 60.0, pause: float = PAUSE_SECONDS
) -> Any:
    """Return the first true value of `claim`; fail when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := claim()):
        assert time.monotonic() < deadline, f"it did not become true within {seconds:.0f} s"
        time.sleep(pause)
    return value


def seconds_until(claim: Callable[[], Any], *, seconds: float = 30.0) -> float:
    """Return the seconds until `claim` is true; fail when that takes more than `seconds`."""
    start = time.monotonic()
    eventually(claim, seconds=seconds, pause=0.01)
    return time.monotonic() - start
