"""End a process when its parent ends; keep its memory out of core files."""

import ctypes
import resource
import signal
import sys


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux signal this process when its parent ends, however it ends.

    Other systems offer no such signal; there this does nothing.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, with_signal)


def forbid_core_files() -> None:
    """Let no crash of this process or of its children write their memory to a file.

    Questions are in it. A program to which the kernel hands cores, such as systemd-coredump, obeys
    the limit, too.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
