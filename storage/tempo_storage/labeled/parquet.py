"""Turn a Parquet file into JSON Lines, in a process of its own that cannot take the machine along.

A small Parquet file may hold an endless text a million times. So a child process decodes it, with
bounds on memory, time and output:

    python -m tempo_storage.labeled.parquet < file.parquet > lines.jsonl

It needs the package arro3-io, which the extra `files` installs.
"""

import json
import resource
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from tempo_storage.errors import InvalidInputError, TooLargeError

MAGIC = b"PAR1"
# -P: a file in the working directory must not replace an installed module.
COMMAND = (sys.executable, "-P", "-m", "tempo_storage.labeled.parquet")
MAX_OUTPUT_BYTES = 32 * 1024 * 1024
MEMORY_BYTES = 2 << 30  # address space, not resident
MAX_SECONDS = 60
ROWS_PER_BATCH = 64
TOO_LARGE = 3  # the child's exit code
INSTALL = "a Parquet file needs arro3-io; install vllm-tempo[files] on the server, or pass JSONL"
ALTERNATIVE = "save it as JSON Lines"


def as_json_lines(content: bytes) -> bytes:
    """Return the rows of a Parquet file as JSON objects, one on a line.

    Raises InvalidInputError for a file that cannot be read, and TooLargeError for one whose rows
    take more than 32 MiB.
    """
    if find_spec("arro3") is None or find_spec("arro3.io") is None:
        raise InvalidInputError(INSTALL)
    try:
        child = subprocess.run(
            COMMAND, input=content, capture_output=True, timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"the Parquet file is not read within {MAX_SECONDS} s; {ALTERNATIVE}"
        raise InvalidInputError(message) from None
    if child.returncode == TOO_LARGE:
        raise TooLargeError("the rows of the Parquet file take more than 32 MiB; split it")
    if child.returncode != 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:200] if lines else f"exit status {child.returncode}"
        raise InvalidInputError(f"the Parquet file cannot be read ({reason}); {ALTERNATIVE}")
    return child.stdout


def main() -> None:
    """Write the rows of the Parquet file on standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from arro3.io import read_parquet

    output_bytes = 0
    for batch in read_parquet(sys.stdin.buffer.read(), batch_size=ROWS_PER_BATCH):
        for row in batch.to_struct_array().to_pylist():
            # pandas writes NaN for a value that is missing, and only NaN differs from itself.
            row = {name: None if value != value else value for name, value in row.items()}
            line = json.dumps(row, ensure_ascii=False, default=_as_text).encode() + b"\n"
            output_bytes += len(line)
            if output_bytes > MAX_OUTPUT_BYTES:
                sys.exit(TOO_LARGE)
            sys.stdout.buffer.write(line)


def _as_text(value: Any) -> str:
    """Return a text for a value that JSON lacks; of bytes only their number."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main()
