"""End a process when its parent ends."""

import ctypes
import signal
import sys


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux signal this process when its parent ends, however it ends.

    Other systems offer no such signal; there this does nothing.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, with_signal)
