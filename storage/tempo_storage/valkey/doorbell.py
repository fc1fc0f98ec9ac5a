"""Wake the worker for a job. The job is the row in SQL; a lost ring costs time and nothing else."""

import logging

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from tempo_storage.valkey.streams import QUEUE

logger = logging.getLogger("vllm.tempo.doorbell")

# RQ needs a function's name, and this one names no function. The worker accepts only this name and
# calls `Jobs.run` (rq_worker.py, lifecycle.py); nobody imports it.
FUNCTION = "tempo_trainer.jobs.run_job"
# RQ keeps its record of an ended job for so many seconds; the ledger has the record that counts.
KEEP = {"result_ttl": 60, "failure_ttl": 60}
NO_TIMEOUT = -1


def ring(client: redis.Redis, job_id: str) -> bool:
    """Queue a job by its id and return whether Valkey took it.

    The worker also looks for jobs in SQL. To ring twice is harmless, because `Jobs.run` reads the
    job's row first.
    """
    queue = Queue(QUEUE, connection=client, serializer=JSONSerializer)
    try:
        queue.enqueue_call(FUNCTION, kwargs={"job_id": job_id}, timeout=NO_TIMEOUT, **KEEP)
    except (redis.RedisError, OSError) as error:
        logger.warning("job %s: Valkey is down (%s); the worker finds it in SQL", job_id, error)
        return False
    return True
