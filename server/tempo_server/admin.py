"""The admin API: /tempo/v1/… with a key, /tempo/healthz and /tempo/readyz without."""

from collections.abc import Callable

from fastapi import APIRouter

from tempo_server import admin_adapters, admin_files, admin_jobs, admin_status
from tempo_server.context import Context
from tempo_server.routing import guarded


def router(context_of: Callable[[], Context]) -> APIRouter:
    """Return all admin routes; they call `context_of` for each request."""
    keyed = APIRouter(prefix="/v1", route_class=guarded(context_of), tags=["tempo"])
    for module in (admin_files, admin_jobs, admin_adapters, admin_status):
        module.add_routes(keyed)
    whole = APIRouter(prefix="/tempo", route_class=guarded(context_of, needs_key=False))
    admin_status.add_probes(whole)
    whole.include_router(keyed)
    return whole
