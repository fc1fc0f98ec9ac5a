"""The doorbell of the worker while Valkey is down."""

from tempo_storage.valkey.doorbell import ring
from tempo_storage.valkey.streams import redis_client


def test_a_ring_is_no_failure_while_valkey_is_down() -> None:
    client = redis_client("redis://127.0.0.1:1/0")
    assert ring(client, "ftjob-1") is False
    client.close()
