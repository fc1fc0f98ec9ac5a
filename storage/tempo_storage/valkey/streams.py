"""The stream that carries captured questions from the servers to the ledger.

Delivery is at least once: the worker acknowledges an entry after it has committed the row, and a
row's id is unique. The stream has no maximum length, because Valkey would drop entries that nobody
has read.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tempo_storage.errors import StreamUnavailableError

STREAM = "tempo:questions"
GROUP = "ledger"
CONSUMER = "worker"
MOVED = "tempo:questions:moved"  # there while an entry was moved into the ledger a short time ago
STALL_SECONDS = 60
MAX_ENTRY_BYTES = 4 << 20  # the largest question has 1 MiB, and JSON may write it with escapes
QUEUE = "tempo"  # the queue of the doorbell; RQ adds its own prefix
TIMEOUT_SECONDS = 0.5
REWRITE_SECONDS = 30.0
POLL_SECONDS = 0.05
MAX_TRIES = 50

Captured = dict[str, Any]


def redis_client(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> redis.Redis:
    """Return a client that fails fast: no retries, bounded connect and read times."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # with protocol 3 the replies of a stream have another shape
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
        """Return up to `count` entries as (entry id, question).

        Entries that were read before and not acknowledged come first.
        """
        with _unavailable():
            self._ensure_group()
            return self._read(count, "0") or self._read(count, ">")

    def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """Delete entries whose rows are committed."""
        with _unavailable():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.xack(STREAM, GROUP, *entry_ids)
            pipeline.xdel(STREAM, *entry_ids)
            pipeline.set(MOVED, 1, ex=STALL_SECONDS)
            pipeline.execute()

    def has_stalled(self) -> bool:
        """Tell whether entries wait for a minute, in which none was acknowledged."""
        with _unavailable():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.xrange(STREAM, count=1)
            pipeline.exists(MOVED)
            pipeline.time()
            oldest, has_moved, (now, _) = pipeline.execute()
        added = [int(entry_id.split(b"-")[0]) / 1000 for entry_id, _ in oldest]
        return not has_moved and any(now - at > STALL_SECONDS for at in added)

    def backlog(self) -> int:
        """Return the number of entries that are not in the ledger yet."""
        with _unavailable():
            return int(self._client.xlen(STREAM))

    def delete(self, is_unwanted: Callable[[Captured], bool]) -> int:
        """Delete the entries whose question is unwanted, and write the stream anew; count them.

        Valkey keeps the bytes of a deleted entry as long as entries beside it are there, and saves
        them. So the others are added once more, under their own ids, in one transaction. Entries
        that were read and not acknowledged are read again. Raises StreamUnavailableError, also if
        questions keep arriving in between.
        """
        with _unavailable():
            for _ in range(MAX_TRIES):
                with contextlib.suppress(redis.WatchError), self._client.pipeline() as pipeline:
                    return _write_anew(pipeline, is_unwanted)
        raise StreamUnavailableError("questions arrive in Valkey all the time; try again later")

    def rewrite_log(self, *, timeout_seconds: float = REWRITE_SECONDS) -> None:
        """Let Valkey write its append-only file anew, without the entries that were deleted.

        Returns when it has. Raises StreamUnavailableError if it refuses or takes too long.
        """
        deadline = time.monotonic() + timeout_seconds
        with _unavailable():
            state = self._await_rewrite(deadline)  # one that runs began before the deletion
            if not state["aof_enabled"]:
                return
            self._client.bgrewriteaof()
            state = self._await_rewrite(deadline)
        if state.get("aof_last_bgrewrite_status", "ok") != "ok":
            raise StreamUnavailableError("Valkey cannot write its append-only file; see its log")

    def _await_rewrite(self, deadline: float) -> dict[str, Any]:
        """Return what Valkey says of its file when it does not write it anew any more."""
        names = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        while True:
            state: Any = self._client.info("persistence")
            if not any(state.get(name) for name in names):
                return dict(state)
            if time.monotonic() > deadline:
                raise StreamUnavailableError("Valkey still writes its append-only file; try again")
            time.sleep(POLL_SECONDS)

    def _read(self, count: int, start: str) -> list[tuple[str, Captured]]:
        reply: Any = self._client.xreadgroup(GROUP, CONSUMER, {STREAM: start}, count=count)
        entries = reply[0][1] if reply else []  # one pair (stream, entries)
        return [(entry_id.decode(), _question(fields)) for entry_id, fields in entries if fields]

    def _ensure_group(self) -> None:
        # A lost stream is created again; otherwise every read would fail with NOGROUP.
        try:
            self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):  # another program overwrote it: no question could pass
                self._client.unlink(STREAM)
            elif "BUSYGROUP" not in str(error):  # the group exists
                raise


def _write_anew(pipeline: Any, is_unwanted: Callable[[Captured], bool]) -> int:
    """Replace the stream by one of its wanted entries; raise WatchError if one was added."""
    pipeline.watch(STREAM)
    entries = pipeline.xrange(STREAM)
    wanted = [
        (entry_id, fields) for entry_id, fields in entries if not is_unwanted(_question(fields))
    ]
    pipeline.multi()
    pipeline.unlink(STREAM)
    for entry_id, fields in wanted:
        pipeline.xadd(STREAM, fields, id=entry_id)
    pipeline.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    pipeline.execute()
    return len(entries) - len(wanted)


def _question(fields: Mapping[bytes, bytes]) -> Captured:
    """Return the question of an entry; {} for an entry that another program wrote."""
    text = fields.get(b"question", b"")
    if len(text) > MAX_ENTRY_BYTES:
        return {}
    try:
        question = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return question if isinstance(question, dict) else {}


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Raise StreamUnavailableError for the client's errors in the block."""
    try:
        yield
    except StreamUnavailableError:  # it is an OSError, too, and says what happened
        raise
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise StreamUnavailableError(f"Valkey does not answer ({error}); is it running") from error
    except redis.ResponseError as error:
        # A pipeline quotes its command, and Valkey the arguments: both hold a question.
        refusal = str(error).rpartition("caused error: ")[2].split(", with args")[0]
        raise StreamUnavailableError(
            f"Valkey refused ({refusal}); check its disk, its memory and its users' rights"
        ) from None
