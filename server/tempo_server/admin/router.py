"""The admin API: /tempo/v1/… needs a key, /tempo/healthz and /tempo/readyz need none."""

from typing import Any

from fastapi import APIRouter, Security
from fastapi.security import HTTPBearer

from tempo_server.admin import (
    adapters,
    files,
    graders,
    jobs,
    keys,
    labels,
    models,
    questions,
    status,
)
from tempo_server.admin.schemas import ErrorReply

# For the OpenAPI document. With `default` FastAPI does not list the 422 that we never send.
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is malformed."},
    401: {"model": ErrorReply, "description": "The key is missing or unknown."},
    403: {"model": ErrorReply, "description": "The key lacks the scope."},
    408: {"model": ErrorReply, "description": "The body came too slowly."},
    429: {"model": ErrorReply, "description": "Too many requests wait for a verifier."},
    "default": {"model": ErrorReply, "description": "Another error."},
}
# It only describes the key: KeyRoute checks it before the body is read.
KEY = Security(HTTPBearer(auto_error=False, scheme_name="TempoKey"))

router = APIRouter(prefix="/tempo")
router.include_router(status.health_router, tags=["tempo"])
for module in (files, labels, jobs, graders, adapters, models, questions, keys, status):
    router.include_router(
        module.router, prefix="/v1", tags=["tempo"], dependencies=[KEY], responses=ERRORS
    )
