"""Requests to an ASGI app in this process."""

import asyncio
from typing import Any

import httpx


def send(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request to an app and return its whole response; `options` are httpx's."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tempo") as client:
            return await client.request(method, path, **options)

    return asyncio.run(request())
