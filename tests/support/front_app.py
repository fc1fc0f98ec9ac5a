"""Answer one request on each route of vLLM's own app with the plugin, without an engine.

    python tests/support/front_app.py < cases.json

A case is `[headers, public_metrics]`. Prints for each case and each route `[number of the case,
method, path, status, is_refused]`, where the last says whether the priority was refused. A route
that needs an engine fails with 500 behind the front; before it the answer is 401.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from tempo_server.commands.vllm_serve import answer_for_vllm

answer_for_vllm()  # before vLLM is imported
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_PLUGINS"] = "tempo"
os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # adds the routes that are the most dangerous

import httpx  # noqa: E402
from fastapi.routing import APIRoute, APIWebSocketRoute  # noqa: E402
from starlette.routing import Mount, Route  # noqa: E402
from vllm.entrypoints.launchers.app import build_app  # noqa: E402
from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

from tempo_server.front import Front  # noqa: E402

KEY = "the users' key"
TASKS = ("generate", "realtime", "transcription", "embed", "score", "classify", "render")


def make_app() -> Any:
    """Return vLLM's app for every task with the plugin, which VLLM_PLUGINS names."""
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "m"])
    args.api_key = [KEY]
    return build_app(args, TASKS)


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route."""
    for route in app.routes:
        if isinstance(route, APIWebSocketRoute):
            yield "WEBSOCKET", route.path
        elif isinstance(route, APIRoute | Route):
            path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
            yield from ((method, path) for method in sorted(route.methods or {"GET"}))
        elif isinstance(route, Mount):
            yield "GET", route.path
        else:
            yield "GET", f"unknown kind of route {route!r}"


async def websocket_is_closed(app: Any, path: str, headers: dict[str, str]) -> bool:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "query_string": b"",
        "subprotocols": [],
    }
    task = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait({task}, timeout=2)
    task.cancel()
    return [message["type"] for message in sent] == ["websocket.close"] or (
        bool(sent) and sent[0].get("status") == 401
    )


async def main() -> None:
    """Print the status of each route for each case on stdin."""
    app = make_app()
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    results: list[list[Any]] = []
    async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as http:
        for number, (headers, public_metrics) in enumerate(json.load(sys.stdin)):
            app.state.tempo_front = Front.of([KEY], public_metrics=public_metrics)
            for method, path in routes(app):
                if method == "WEBSOCKET":
                    closed = await websocket_is_closed(app, path, headers)
                    results.append([number, method, path, 401 if closed else 101, False])
                else:
                    reply = await http.request(method, path, headers=headers)
                    is_refused = b'"param":"priority"' in reply.content
                    results.append([number, method, path, reply.status_code, is_refused])
    print(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main())
