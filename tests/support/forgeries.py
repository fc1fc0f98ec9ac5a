"""Jobs and commands that an attacker with a connection to Valkey would write for RQ's worker."""

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from rq import Callback, Queue, Repeat, Retry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from tempo_storage.valkey.doorbell import FUNCTION, RINGS
from tempo_storage.valkey.streams import QUEUE

Forgery = Callable[[redis.Redis, Path], Any]
BOMB_BYTES = 1 << 30


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def push(client: redis.Redis, data: bytes, **fields: Any) -> None:
    """Queue a job with these bytes as its data, whatever they are."""
    client.hset("rq:job:forged", mapping={"data": data, "status": "queued", **fields})
    client.rpush(RINGS, "forged")


def enqueue(client: redis.Redis, function: str, *arguments: str, **options: Any) -> None:
    queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
    queue.enqueue_call(function, args=arguments, **options)


def honest(client: redis.Redis, **options: Any) -> None:
    """Queue a ring that carries something more."""
    enqueue(client, FUNCTION, kwargs={"job_id": "ftjob-1"}, **options)


def bomb() -> bytes:
    """Return a megabyte that inflates to a gigabyte."""
    deflater = zlib.compressobj()
    zeros = b"0" * (1 << 20)
    parts = [deflater.compress(zeros) for _ in range(BOMB_BYTES >> 20)]
    return b"".join([*parts, deflater.flush()])


def call(*parts: Any) -> bytes:
    return zlib.compress(json.dumps(parts).encode())


SYSTEM = Callback("os.abort")  # would end the process
REFUSED: dict[str, Forgery] = {
    "a pickle": lambda c, canary: push(c, pickle.dumps(Canary(canary))),
    "a packed pickle": lambda c, canary: push(c, zlib.compress(pickle.dumps(Canary(canary)))),
    "os.system": lambda c, canary: enqueue(c, "os.system", f"touch {canary}"),
    "a method of an object": lambda c, _: push(c, call("abort", "os", [], {})),
    "a success callback": lambda c, _: honest(c, on_success=SYSTEM),
    "a failure callback": lambda c, _: honest(c, on_failure=SYSTEM),
    "a stopped callback": lambda c, _: honest(c, on_stopped=SYSTEM),
    "a webhook": lambda c, _: honest(c, webhooks=[Webhook("http://127.0.0.1:1/", "failed")]),
    "a repetition": lambda c, _: honest(c, repeat=Repeat(5, interval=1)),
    "a retry": lambda c, _: honest(c, retry=Retry(5)),
    "meta": lambda c, canary: honest(c, meta={"x": str(canary)}),
    "a pickled result": lambda c, canary: push(
        c, call(FUNCTION, None, [], {"job_id": "1"}), result=pickle.dumps(Canary(canary))
    ),
    "more arguments": lambda c, _: push(c, call(FUNCTION, None, ["x"], {"job_id": "1"})),
    "other arguments": lambda c, _: push(c, call(FUNCTION, None, [], {"path": "1"})),
    "arguments that are no object": lambda c, _: push(c, call(FUNCTION, None, [], ["job_id"])),
    "a number": lambda c, _: push(c, call()),
    "deep JSON": lambda c, _: push(c, zlib.compress(b"[" * 100_000)),
    "a bomb": lambda c, _: push(c, bomb()),
    "a small bomb": lambda c, _: push(c, zlib.compress(b"0" * 100_000)),
    "a broken stream": lambda c, _: push(c, call(FUNCTION, None, [], {"job_id": "1"})[:-6]),
    "no data": lambda c, _: push(c, b""),
    "no job": lambda c, _: c.rpush(RINGS, "gone"),
    "a job that is no hash": lambda c, _: (c.set("rq:job:x", "y"), c.rpush(RINGS, "x")),
    "a huge id": lambda c, _: c.rpush(RINGS, "x" * 10_000_000),
    "a queue that is no list": lambda c, _: c.set(RINGS, "x"),
}
# RQ's own worker reads these keys; nobody reads them here.
UNREAD: dict[str, Forgery] = {
    "a suspension": lambda c, _: c.set("rq:suspended", 1),
    "workers that are no set": lambda c, _: c.set("rq:workers", "x"),
    "a started job with a callback": lambda c, _: (
        c.hset("rq:job:late", mapping={"data": b"", "failure_callback_name": "os.abort"}),
        c.zadd(f"rq:wip:{QUEUE}", {"late:1": 1}),
    ),
    "a scheduled job": lambda c, _: c.zadd(f"rq:scheduled:{QUEUE}", {"forged": 1}),
}


def command(client: redis.Redis, name: str) -> None:
    """Send a command to every RQ worker of which an attacker could know the channel."""
    client.publish("rq:pubsub:worker", json.dumps({"command": name, "job_id": "ftjob-1"}))
