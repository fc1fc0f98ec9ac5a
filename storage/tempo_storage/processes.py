"""End a process when its parent ends."""

import ctypes
import signal
import sys


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux for a signal when the parent dies, kill -9 included; elsewhere do nothing."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, with_signal)
