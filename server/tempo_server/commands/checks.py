"""Checks that `tempo serve` makes before it starts anything, and `tempo doctor` at any time."""

import contextlib
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import redis
from sqlalchemy.exc import SQLAlchemyError

from tempo_storage.errors import TempoError
from tempo_storage.valkey.streams import redis_client

MIN_FREE_BYTES = 1 << 30
TIMEOUT_SECONDS = 5.0
VLLM_PACKAGES = "'vllm-tempo[cpu]' or 'vllm-tempo[gpu]'"
# The modules that `tempo serve` needs, by the packages that bring them.
MODULES = {
    VLLM_PACKAGES: ("vllm",),
    "'vllm-tempo[server]'": ("redis", "rq", "safetensors", "python_multipart"),
    "'vllm-tempo[trainer]'": ("torch", "transformers", "peft", "jaxtyping", "mpmath"),
}


class CheckError(TempoError, RuntimeError):
    """A check failed; the message is the finding, a semicolon and the remedy."""


def check_modules() -> None:
    """Raise CheckError for a module that is not installed."""
    for packages, modules in MODULES.items():
        for name in modules:
            if find_spec(name) is None:
                raise CheckError(f"{name} is missing; pip install {packages}")


def check_disk(data_dir: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> str:
    """Return the directory that was tried: the data directory, or the nearest one above it.

    Raises CheckError if nothing can be written there or too little space is free.
    """
    try:
        directory = next(path for path in (data_dir, *data_dir.parents) if path.exists())
        trial = directory / ".writable"
        trial.write_bytes(b"\0" * 4096)
        trial.unlink()
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise CheckError(
            f"cannot write to the data directory {data_dir} ({error.strerror}); "
            "make it writable, or set TEMPO_DATA_DIR"
        ) from error
    if free < min_free_bytes:
        raise CheckError(
            f"{free >> 20} MiB are free in the data directory {data_dir}, but "
            f"{min_free_bytes >> 20} are needed; free some, or set TEMPO_DATA_DIR"
        )
    return str(directory)


def check_valkey(url: str, *, remedy: str = "check TEMPO_REDIS_URL") -> str:
    """Return Valkey's maxmemory-policy, "" if it does not tell; raise CheckError if it is down."""
    try:
        with redis_client(url, timeout_seconds=TIMEOUT_SECONDS) as client:
            client.ping()
            return str(client.config_get("maxmemory-policy").get("maxmemory-policy"))
    except redis.ResponseError:
        return ""
    except (redis.RedisError, OSError, ValueError) as error:
        raise CheckError(f"Valkey does not answer ({error}); {remedy}") from error


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Raise CheckError where the block cannot use the database."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        raise CheckError(
            f"the database cannot be used ({str(error).splitlines()[0]}); check "
            "TEMPO_DATABASE_URL, and pip install 'vllm-tempo[postgres]' for PostgreSQL"
        ) from error
