"""The SDK of vllm-tempo: upload labeled questions, start training, promote and roll back.

from tempo_client import Tempo

with Tempo("http://127.0.0.1:8000") as tempo:
    tempo.recalibrate("labeled.jsonl")
    print(tempo.status().serving_adapter)
"""

from tempo_client._client import AsyncTempo, Tempo
from tempo_client._operations import Labeled
from tempo_client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    InternalServerError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TempoError,
    UnprocessableEntityError,
)
from tempo_client.types import (
    Adapter,
    Event,
    File,
    Job,
    JobError,
    Key,
    LabeledCounts,
    Learned,
    QuestionCounts,
    Resource,
    ServerProcess,
    Status,
    Training,
    Worker,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "Adapter",
    "AsyncTempo",
    "AuthenticationError",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "Event",
    "File",
    "InternalServerError",
    "Job",
    "JobError",
    "JobFailedError",
    "JobTimeoutError",
    "Key",
    "Labeled",
    "LabeledCounts",
    "Learned",
    "NotFoundError",
    "PermissionDeniedError",
    "QuestionCounts",
    "RateLimitError",
    "Resource",
    "ServerProcess",
    "Status",
    "Tempo",
    "TempoError",
    "Training",
    "UnprocessableEntityError",
    "Worker",
]
