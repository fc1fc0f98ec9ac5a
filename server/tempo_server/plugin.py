"""What vLLM calls: routes before its engine is known, state before HTTP opens.

Imports the standard library only: vLLM swallows what an import or a factory raises and would serve
without us. Every refusal is raised in `attach_router` or `init_state`, where it stops the server.
"""

import asyncio
import importlib
import logging
from argparse import Namespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("vllm.tempo")

OLDEST_VLLM = (0, 32)


class TempoPlugin:
    """The `vllm.endpoint_plugins` entry point."""

    name = "tempo"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []  # asyncio itself keeps weak references only

    def attach_router(self, app: "FastAPI") -> None:
        """Add the admin routes and wrap vLLM's; refuse to start where that cannot work."""
        _require_extra()
        from tempo_server import errors
        from tempo_server.admin.router import router
        from tempo_server.serving import endpoints
        from tempo_server.settings import ServerSettings
        from tempo_storage.settings import checked

        checked(ServerSettings)
        _require_vllm()
        errors.install(app)
        app.include_router(router)
        endpoints.wrap(app)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Build the context, serve what was promoted, start the two tasks."""
        from tempo_server import assemble, keys
        from tempo_server.capture.spool import drain

        warnings = assemble.check(engine_client.vllm_config)
        context = assemble.context(args.model, warnings=warnings)
        keys.ensure_admin_key(context)
        runtime = assemble.runtime(context, engine_client, state)
        await runtime.follower.restore()
        await assemble.warm_up(engine_client)
        self._tasks = [
            asyncio.create_task(runtime.follower.run()),
            asyncio.create_task(drain(runtime.spool, context.stream)),
        ]
        state.tempo, state.tempo_runtime = context, runtime


def _require_extra() -> None:
    try:
        for name in ("pydantic_settings", "redis", "rq", "sqlalchemy"):
            importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(
            f"vllm-tempo cannot import {error.name}; pip install 'vllm-tempo[server]'"
        ) from error


def _require_vllm() -> None:
    from vllm.version import __version__, __version_tuple__

    if OLDEST_VLLM > __version_tuple__[:2] > (0, 0):  # (0, 0) is a build from source
        wanted = ".".join(map(str, OLDEST_VLLM))
        raise RuntimeError(
            f"vllm-tempo needs vLLM {wanted} or newer, not {__version__}; "
            f"pip install 'vllm>={wanted}'"
        )
