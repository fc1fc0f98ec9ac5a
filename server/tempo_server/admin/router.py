"""The admin API: /tempo/v1/… needs a key, /tempo/healthz and /tempo/readyz need none."""

from fastapi import APIRouter

from tempo_server.admin import adapters, files, jobs, keys, questions, status

router = APIRouter(prefix="/tempo")
router.include_router(status.health_router)
for module in (files, jobs, adapters, questions, keys, status):
    router.include_router(module.router, prefix="/v1", tags=["tempo"])
