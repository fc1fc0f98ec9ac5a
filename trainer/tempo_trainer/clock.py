"""Seconds of each phase of an iteration, summed until `take` returns them.

The sums live in this module, because one learner trains in a process. Phases do not nest.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Add the seconds of a block, or of each call of a decorated function, to a phase."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _seconds[name] = _seconds.get(name, 0.0) + time.perf_counter() - began


def take() -> dict[str, float]:
    """Return the sums as metrics, `time/<phase>_seconds`, and start again from nothing."""
    sums = {f"time/{name}_seconds": seconds for name, seconds in _seconds.items()}
    _seconds.clear()
    return sums
