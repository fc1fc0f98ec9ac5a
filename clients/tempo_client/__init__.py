"""The SDK of vllm-tempo: upload labeled questions, start training, promote and roll back.

from tempo_client import Tempo

with Tempo("http://127.0.0.1:8000") as tempo:
    tempo.recalibrate("labeled.jsonl")
    print(tempo.status().serving_adapter)
"""

from tempo_client._client import AsyncTempo as AsyncTempo
from tempo_client._client import Tempo as Tempo
from tempo_client._operations import Labeled as Labeled
from tempo_client.errors import APIConnectionError as APIConnectionError
from tempo_client.errors import APIError as APIError
from tempo_client.errors import APIStatusError as APIStatusError
from tempo_client.errors import APITimeoutError as APITimeoutError
from tempo_client.errors import AuthenticationError as AuthenticationError
from tempo_client.errors import BadRequestError as BadRequestError
from tempo_client.errors import ConfigurationError as ConfigurationError
from tempo_client.errors import ConflictError as ConflictError
from tempo_client.errors import DatasetError as DatasetError
from tempo_client.errors import InternalServerError as InternalServerError
from tempo_client.errors import JobFailedError as JobFailedError
from tempo_client.errors import JobTimeoutError as JobTimeoutError
from tempo_client.errors import NotFoundError as NotFoundError
from tempo_client.errors import PermissionDeniedError as PermissionDeniedError
from tempo_client.errors import RateLimitError as RateLimitError
from tempo_client.errors import TempoError as TempoError
from tempo_client.errors import UnprocessableEntityError as UnprocessableEntityError
from tempo_client.types import Adapter as Adapter
from tempo_client.types import AuditRecord as AuditRecord
from tempo_client.types import Checkpoint as Checkpoint
from tempo_client.types import Decoding as Decoding
from tempo_client.types import Deletion as Deletion
from tempo_client.types import Event as Event
from tempo_client.types import File as File
from tempo_client.types import Job as Job
from tempo_client.types import JobError as JobError
from tempo_client.types import Key as Key
from tempo_client.types import Label as Label
from tempo_client.types import LabeledCounts as LabeledCounts
from tempo_client.types import Learned as Learned
from tempo_client.types import QuestionCounts as QuestionCounts
from tempo_client.types import Resource as Resource
from tempo_client.types import ServerProcess as ServerProcess
from tempo_client.types import Status as Status
from tempo_client.types import Tenant as Tenant
from tempo_client.types import Training as Training
from tempo_client.types import Verdicts as Verdicts
from tempo_client.types import Worker as Worker
