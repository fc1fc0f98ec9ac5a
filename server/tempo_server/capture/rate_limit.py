"""Bound how many questions of a tenant one API process keeps in a minute."""

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_TENANTS = 10_000  # that are remembered; those that asked longest ago are forgotten


class RateLimit:
    """A bucket for each tenant, which holds the questions of a minute and fills all the time."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute  # 0: no limit
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, tenant: str) -> bool:
        """Count a question of a tenant; return False if it is one too many."""
        if not self._per_minute:
            return True
        now = self._clock()
        left, at = self._buckets.pop(tenant, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - at) * self._per_minute / 60)
        is_taken = left >= 1
        self._buckets[tenant] = left - is_taken, now
        if len(self._buckets) > MAX_TENANTS:
            self._buckets.popitem(last=False)
        return is_taken
