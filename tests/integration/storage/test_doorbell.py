"""The worker's doorbell on a real Valkey, as RQ reads it."""

from pathlib import Path

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from valkeys import embedded_valkey

from tempo_storage.valkey.doorbell import FUNCTION, ring
from tempo_storage.valkey.streams import QUEUE, redis_client

pytestmark = pytest.mark.service


def test_a_ring_names_the_job_in_json_and_sets_no_time_limit(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as valkey:
        client = redis_client(valkey.url)
        assert ring(client, "ftjob-1")
        assert ring(client, "ftjob-1")
        first, _ = Queue(QUEUE, connection=client, serializer=JSONSerializer).jobs
        assert (first.func_name, first.args, first.kwargs) == (FUNCTION, [], {"job_id": "ftjob-1"})
        assert first.timeout == -1
        client.close()
