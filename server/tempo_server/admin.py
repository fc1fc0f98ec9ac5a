"""The admin API: /tempo/v1/… with a key, /tempo/healthz and /tempo/readyz without."""

from fastapi import APIRouter

from tempo_server import (
    admin_adapters,
    admin_files,
    admin_jobs,
    admin_keys,
    admin_questions,
    admin_status,
)

router = APIRouter(prefix="/tempo")
router.include_router(admin_status.probes)
for module in (
    admin_files,
    admin_jobs,
    admin_adapters,
    admin_questions,
    admin_keys,
    admin_status,
):
    router.include_router(module.router, prefix="/v1", tags=["tempo"])
