"""Where the time of an iteration goes: seconds by phase, kept until somebody takes them.

One learner trains in a process, and phases do not nest; so the sums live in this module.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Add the time of a block, or of each call of a decorated function, to a phase."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _seconds[name] = _seconds.get(name, 0.0) + time.perf_counter() - began


def take() -> dict[str, float]:
    """Return the seconds since the last call as metrics, and start again from nothing."""
    taken = {f"time/{name}_seconds": seconds for name, seconds in _seconds.items()}
    _seconds.clear()
    return taken
