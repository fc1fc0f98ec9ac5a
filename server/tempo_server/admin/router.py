"""The admin API: /tempo/v1/… needs a key, /tempo/healthz and /tempo/readyz need none."""

from fastapi import APIRouter, Security
from fastapi.security import HTTPBearer

from tempo_server.admin import (
    adapters,
    audit,
    files,
    graders,
    jobs,
    keys,
    labels,
    models,
    questions,
    status,
)
from tempo_server.admin.route import COMMON_ERRORS, PUBLIC_ERRORS

# It only describes the key: KeyRoute checks it before the body is read.
KEY = Security(HTTPBearer(auto_error=False, scheme_name="TempoKey"))

router = APIRouter(prefix="/tempo")
router.include_router(status.health_router, tags=["tempo"], responses=PUBLIC_ERRORS)
for module in (files, labels, jobs, graders, adapters, models, questions, keys, audit, status):
    router.include_router(
        module.router, prefix="/v1", tags=["tempo"], dependencies=[KEY], responses=COMMON_ERRORS
    )
