"""Wake the worker for a job. The job is the row in SQL; a lost ring costs time and nothing else.

A ring is a job in RQ's queue. The worker imports, unpickles and calls nothing that Valkey names, it
obeys no command that comes through Valkey, and it takes no job's id from there. It compares a ring
with the only form that `ring` writes, and then makes RQ's jobs of those in the ledger by itself.
Whoever can write to this Valkey can therefore wake the worker, and nothing else.
"""

import json
import logging
import zlib
from dataclasses import dataclass

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from tempo_storage.valkey.streams import QUEUE

logger = logging.getLogger("vllm.tempo.doorbell")

# RQ needs a function's name, and this one names no function; nobody imports it.
FUNCTION = "tempo_trainer.jobs.run_job"
# RQ keeps its record of an ended job for so many seconds; the ledger has the record that counts.
KEEP = {"result_ttl": 60, "failure_ttl": 60}
NO_TIMEOUT = -1
RINGS = f"rq:queue:{QUEUE}"
COMMANDS = "rq:pubsub:*"  # RQ's channels: shutdown, kill-horse, stop-job
JOB = b"rq:job:"
MAX_ID_BYTES = 64
MAX_DATA_BYTES = 512  # of a ring's data, packed and unpacked; ours has 100
MAX_RINGS = 16  # that are read at once: one look into the ledger answers them all
MAX_COMMANDS = 100  # that are read at once
# Fields of RQ's jobs that name functions, addresses or other jobs. A ring has none of them.
FORBIDDEN_FIELDS = (
    *("success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks"),
    *("dependency_id", "dependency_ids", "repeats_left", "retries_left", "group_id"),
    *("rate_limit_key", "meta", "result", "exc_info"),
)


@dataclass(frozen=True, slots=True)
class Refused:
    """The number of jobs and of commands of other programs that were refused."""

    jobs: int = 0
    commands: int = 0


def ring(client: redis.Redis, job_id: str) -> bool:
    """Queue a job by its id and return whether Valkey took it.

    The worker also looks for jobs in SQL. To ring twice is harmless, because `Jobs.run` reads the
    job's row first.
    """
    queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
    try:
        queue.enqueue_call(FUNCTION, kwargs={"job_id": job_id}, timeout=NO_TIMEOUT)
    except (redis.RedisError, OSError) as error:
        logger.warning("job %s: Valkey takes no ring (%s); the worker looks in SQL", job_id, error)
        return False
    return True


class Listener:
    """The worker's end of the doorbell. `wait` raises redis.RedisError while Valkey is down."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._commands = client.pubsub()

    def close(self) -> None:
        """Close the connections."""
        self._commands.close()
        self._client.close()

    def wait(self, seconds: float) -> Refused:
        """Return after a ring, or after so many seconds, and say how much was refused.

        The client's time-out must be longer.
        """
        ids, unread = self._take(seconds)
        forged = sum(not self._is_ring(ring_id) for ring_id in ids)
        return Refused(forged + unread, self._count_commands())

    def _take(self, seconds: float) -> tuple[list[bytes], int]:
        """Empty the queue; return the first entries, and the number of the others."""
        try:
            first = self._client.blpop([RINGS], seconds)
            if first is None:
                return [], 0
            pipeline = self._client.pipeline(transaction=True)
            pipeline.lrange(RINGS, 0, MAX_RINGS - 2)
            pipeline.llen(RINGS)
            pipeline.unlink(RINGS)
            others, length, _ = pipeline.execute()
        except redis.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._client.unlink(RINGS)  # it is no list; no ring could ever be queued
            return [], 1
        return [first[1], *others], length - len(others)

    def _is_ring(self, ring_id: bytes) -> bool:
        """Tell whether an entry is one of ours, and delete its job."""
        if len(ring_id) > MAX_ID_BYTES:
            return False
        key = JOB + ring_id
        pipeline = self._client.pipeline(transaction=True)
        for field in ("data", *FORBIDDEN_FIELDS):
            pipeline.hstrlen(key, field)
        try:
            size, *forbidden = pipeline.execute()
            is_small = 0 < size <= MAX_DATA_BYTES and not any(forbidden)
            data = self._client.hget(key, "data") if is_small else None
        except redis.ResponseError:  # the key is no hash
            data = None
        self._client.unlink(key)
        return data is not None and _is_ours(data)

    def _count_commands(self) -> int:
        """Count the commands to RQ's workers since the last call; nobody here obeys one."""
        if not self._commands.subscribed:
            self._commands.psubscribe(COMMANDS)
        count = 0
        try:
            for _ in range(MAX_COMMANDS):
                if (message := self._commands.get_message()) is None:
                    break
                count += message["type"] == "pmessage"
        except redis.ConnectionError:  # Valkey ended, or found that we read too slowly
            self._commands.close()
        return count


def _is_ours(data: bytes) -> bool:
    """Tell whether the data of an RQ job is a ring's."""
    inflater = zlib.decompressobj()
    try:
        call = json.loads(inflater.decompress(data[:MAX_DATA_BYTES], MAX_DATA_BYTES))
    except (zlib.error, ValueError, RecursionError):
        return False
    if not inflater.eof or not isinstance(call, list) or call[:-1] != [FUNCTION, None, []]:
        return False
    return isinstance(call[-1], dict) and call[-1].keys() == {"job_id"}
