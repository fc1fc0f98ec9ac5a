"""The worker's doorbell on a real Valkey, as RQ reads it."""

from pathlib import Path

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from valkeys import embedded_valkey

from tempo_storage.valkey.doorbell import FUNCTION, MAX_DATA_BYTES, ring
from tempo_storage.valkey.streams import QUEUE, redis_client

pytestmark = pytest.mark.service
JOB_ID = f"ftjob-{'0' * 24}"


def test_a_ring_names_the_job_in_json_and_sets_no_time_limit(tmp_path: Path) -> None:
    with embedded_valkey(tmp_path) as valkey:
        client = redis_client(valkey.url)
        assert ring(client, JOB_ID)
        assert ring(client, JOB_ID)
        first, _ = Queue(QUEUE, connection=client, serializer=JSONSerializer).jobs
        assert (first.func_name, first.args, first.kwargs) == (FUNCTION, [], {"job_id": JOB_ID})
        assert first.timeout == -1
        assert len(first.data) < MAX_DATA_BYTES / 4
        client.close()
