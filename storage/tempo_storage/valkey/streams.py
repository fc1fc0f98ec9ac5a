"""Captured questions on their way from the servers to the ledger: one Valkey stream, one group.

At least once: an entry is acknowledged after its row is committed, and rows are unique by id.
The stream is never trimmed by length: that would drop entries which nobody has read.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tempo_storage.errors import StreamUnavailableError

STREAM = "tempo:questions"
GROUP, CONSUMER = "ledger", "worker"
QUEUE = "tempo"  # RQ's queue; RQ puts its own prefix before it
TIMEOUT_SECONDS = 0.5

Captured = dict[str, Any]


def redis_client(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> redis.Redis:
    """Return a client that fails fast: no retries, bounded connect and read times."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # with 3 the replies of a stream have another shape
    )


class QuestionStream:
    """Append, read, acknowledge. Every method raises StreamUnavailableError when Valkey is down."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def append(self, questions: Sequence[Captured]) -> None:
        """Append all questions in one atomic round trip."""
        with _unavailable():
            pipeline = self._client.pipeline(transaction=True)
            for question in questions:
                pipeline.xadd(STREAM, {"question": json.dumps(question)})
            pipeline.execute()

    def read(self, count: int = 256) -> list[tuple[str, Captured]]:
        """Return up to `count` entries as (entry id, question), those left pending first."""
        with _unavailable():
            self._ensure_group()
            return self._read(count, "0") or self._read(count, ">")

    def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """Forget entries whose rows are committed."""
        with _unavailable():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.xack(STREAM, GROUP, *entry_ids)
            pipeline.xdel(STREAM, *entry_ids)
            pipeline.execute()

    def backlog(self) -> int:
        """Return the number of entries that are not in the ledger yet."""
        with _unavailable():
            return int(self._client.xlen(STREAM))

    def _read(self, count: int, start: str) -> list[tuple[str, Captured]]:
        reply: Any = self._client.xreadgroup(GROUP, CONSUMER, {STREAM: start}, count=count)
        entries = [entry for _, found in reply for entry in found]
        return [(i.decode(), _question(fields)) for i, fields in entries if fields]

    def _ensure_group(self) -> None:
        # A stream that was lost is made anew: NOGROUP would otherwise repeat for ever.
        try:
            self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _question(fields: Mapping[bytes, bytes]) -> Captured:
    """Return what was captured; nothing where something else wrote the entry."""
    try:
        found = json.loads(fields[b"question"])
    except (KeyError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise StreamUnavailableError(f"Valkey does not answer ({error}); is it running") from error
    except redis.ResponseError as error:
        raise StreamUnavailableError(
            f"Valkey refused ({error}); check its disk and memory"
        ) from error
