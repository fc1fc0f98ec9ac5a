"""Crash where a test asks for it: `TEMPO_FAILPOINT=m_step:3` is kill -9 at the third M-step."""

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def reach(place: str, failpoint: str) -> None:
    """Kill this process with -9 when `failpoint` names this place and this time of passing it."""
    wanted, _, times = failpoint.partition(":")
    if place == wanted:
        _passed[place] += 1
        if _passed[place] == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
