"""The plugin that vLLM loads: it adds routes while vLLM starts, and its state before HTTP opens.

This module imports the standard library only. vLLM swallows whatever the import or the factory of a
plugin raises, and would serve without us. Each refusal is raised in `attach_router` or `init_state`
instead, where it stops the server.
"""

import asyncio
import functools
import importlib
import logging
import re
from argparse import Namespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("vllm.tempo")

MIN_VLLM = (0, 32)


class TempoPlugin:
    """The entry point `vllm.endpoint_plugins`."""

    name = "tempo"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []  # asyncio itself keeps only weak references

    def attach_router(self, app: "FastAPI") -> None:
        """Add the admin routes and wrap vLLM's routes; vLLM calls this before it has an engine.

        Raises RuntimeError, SettingsError or StartError where the server could not work.
        """
        _require_packages()
        from vllm.version import __version__

        from tempo_server import errors
        from tempo_server.admin import route
        from tempo_server.admin.router import router
        from tempo_server.capture import rendering
        from tempo_server.front import UserKeyMiddleware
        from tempo_server.serving import endpoints
        from tempo_server.settings import ServerSettings
        from tempo_storage.settings import checked

        checked(ServerSettings).use_peer_addresses()
        raise_if_too_old("vllm", __version__)
        errors.install(app)
        route.install(app)
        app.include_router(router)
        endpoints.wrap(app)
        app.add_middleware(UserKeyMiddleware)
        rendering.add_no_second_bos()

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Serve the promoted version, start the background tasks, then fill `app.state`."""
        from vllm import envs

        from tempo_server import assemble, front, keys
        from tempo_server.capture import erasure, redaction, rendering
        from tempo_server.capture.capture import Capture
        from tempo_server.capture.rate_limit import RateLimit
        from tempo_server.capture.spool import Spool, send_for_ever
        from tempo_server.capture.tenants import Tenants
        from tempo_server.serving.bindings import Bindings
        from tempo_server.serving.endpoints import EndpointContext

        await rendering.check(state)
        warnings = assemble.check_vllm(engine_client.vllm_config, args)
        users_keys = front.users_keys(args, envs.VLLM_API_KEY)
        warnings += assemble.check_exposure(args, users_keys)
        context = assemble.open_context(
            args.model,
            engine_client.vllm_config,
            served_names=[path.name for path in state.openai_serving_models.base_model_paths],
            warnings=warnings,
        )
        settings = context.settings
        keys.ensure_admin_key(context)
        redactors = redaction.load(settings.redactor_names)
        spool = Spool(
            settings.root / "spool",
            limit_bytes=settings.spool_bytes,
            keep_days=settings.retention_days,
        )
        tenants = Tenants.of(settings, users_keys)
        rate_limit = RateLimit(settings.tenant_questions_per_minute)
        bindings = Bindings(context, engine_client, state.openai_serving_models)
        follower = assemble.new_follower(context, bindings, spool.counters)
        with assemble.unmeasured(engine_client):
            await follower.restore()
            await assemble.warm_up(engine_client)
        await erasure.erase(spool, context.sessions)  # before the first question is sent
        self._tasks = [
            asyncio.create_task(follower.run()),
            asyncio.create_task(send_for_ever(spool, context.stream)),
            asyncio.create_task(
                erasure.erase_for_ever(spool, context.sessions, settings.poll_seconds)
            ),
        ]
        state.tempo = context
        state.tempo_front = front.Front.of(
            users_keys,
            public_metrics=settings.public_metrics,
            max_body_bytes=settings.max_request_bytes,
        )
        state.tempo_endpoints = EndpointContext(
            bindings=bindings,
            capture=Capture(settings, spool, tenants, rate_limit, redactors),
            is_admin_key=functools.partial(keys.is_workers_key, context),
        )


def _require_packages() -> None:
    try:
        for name in ("pydantic_settings", "redis", "rq", "sqlalchemy"):
            importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(
            f"vllm-tempo cannot import {error.name}; pip install 'vllm-tempo[server]'"
        ) from error


def raise_if_too_old(package: str, version: str) -> None:
    """Raise StartError for a version of vLLM that lacks the hooks that we use."""
    from tempo_server.errors import StartError

    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if MIN_VLLM > numbers > (0, 0):  # a build from source is "dev" or 0.0
        minimum = ".".join(map(str, MIN_VLLM))
        raise StartError(f"{package} {version} is too old; pip install 'vllm>={minimum}'")
