"""Wake the worker for a job. The row in SQL is the order; a ring that gets lost costs time only."""

import logging

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from tempo_storage.valkey.streams import QUEUE

logger = logging.getLogger("vllm.tempo.doorbell")

FUNCTION = "tempo_trainer.jobs.run_job"  # a name that the worker knows: nobody imports it
# Seconds for which RQ keeps its own record of what ended; the ledger has the true one.
KEEP = {"result_ttl": 60, "failure_ttl": 60}
NO_TIMEOUT = -1


def ring(client: redis.Redis, job_id: str) -> bool:
    """Queue `run_job(job_id)` and tell whether Valkey took it; the worker also looks into SQL.

    Ringing twice is harmless: `run_job` looks at the job's row first.
    """
    queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
    try:
        queue.enqueue_call(FUNCTION, kwargs={"job_id": job_id}, timeout=NO_TIMEOUT, **KEEP)
    except (redis.RedisError, OSError) as error:
        logger.warning("job %s: Valkey is down (%s); the worker finds it in SQL", job_id, error)
        return False
    return True
