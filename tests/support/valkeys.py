"""An embedded Valkey for a test; in the product it ends with the process that owns it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tempo_storage.valkey.server import EmbeddedValkey

STOP_SECONDS = 10.0


@contextlib.contextmanager
def embedded_valkey(data_dir: Path) -> Iterator[EmbeddedValkey]:
    """Start or join the Valkey of a data directory; after the block end it, if it is our own."""
    valkey = EmbeddedValkey(data_dir)
    valkey.start()
    try:
        yield valkey
    finally:
        _stop(valkey)


def _stop(valkey: EmbeddedValkey) -> None:
    if valkey.process is not None and valkey.process.poll() is None:
        valkey.process.terminate()
        try:
            valkey.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            valkey.process.kill()
            valkey.process.wait()
    if valkey._lock is not None:
        valkey._lock.close()
