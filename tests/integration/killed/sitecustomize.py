"""With this directory on PYTHONPATH, KILL_AT is a pattern: kill -9 at the first match of an event.

An event is what Python audits, as text: `os.rename /from /to -1 -1`, `open /path None 524288`.
"""

import os
import re
import signal
import sys

PATTERN = re.compile(os.environ["KILL_AT"])


def kill_at(event: str, arguments: tuple[object, ...]) -> None:
    """Die in the moment before what the pattern names is done."""
    if event in ("open", "os.rename") and PATTERN.match(" ".join(map(str, (event, *arguments)))):
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(kill_at)
