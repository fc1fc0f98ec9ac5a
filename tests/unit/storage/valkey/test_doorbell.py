"""The worker's doorbell when nobody hears it."""

from tempo_storage.valkey.doorbell import ring
from tempo_storage.valkey.streams import redis_client


def test_a_ring_that_nobody_hears_is_no_failure() -> None:
    client = redis_client("redis://127.0.0.1:1/0")
    assert ring(client, "ftjob-1") is False
    client.close()
