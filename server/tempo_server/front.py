"""The front door: the address on which vLLM listens, the key that users send, the largest body.

vLLM's --api-key guards only paths that begin with /v1, /v2, /inference or /cohere. /invocations,
/tokenize and others answer without it. UserKeyMiddleware asks for the same key on every path except
OPEN_PATHS. The routes below /tempo have keys of their own.
"""

import hashlib
import hmac
import ipaddress
import socket
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tempo_server.context import from_state
from tempo_server.errors import AuthenticationError, NotReadyError, error_response
from tempo_storage.errors import TooLargeError

OPEN_PATHS = ("/health", "/ping", "/version")
METRICS_PATH = "/metrics"
OWN_PATHS = "/tempo/"
MAX_BODY_BYTES = 64 << 20
REMEDY = "give --api-key KEY, or --host 127.0.0.1"


@dataclass(frozen=True, slots=True)
class Front:
    """Who may pass. The plugin stores it in `app.state.tempo_front` when the server is ready."""

    digests: tuple[bytes, ...] = ()
    """The sha256 of each users' key; without one everybody passes."""
    open_paths: tuple[str, ...] = OPEN_PATHS
    max_body_bytes: int = MAX_BODY_BYTES

    @classmethod
    def of(
        cls, keys: Iterable[str], *, public_metrics: bool, max_body_bytes: int = MAX_BODY_BYTES
    ) -> "Front":
        """Return the front for these users' keys."""
        paths = (*OPEN_PATHS, METRICS_PATH) if public_metrics else OPEN_PATHS
        return cls(tuple(_digest(key) for key in keys), paths, max_body_bytes)

    def admits(self, connection: HTTPConnection) -> bool:
        """Tell whether a request may pass."""
        path = path_of(connection.scope)
        if not self.digests or path in self.open_paths or path.startswith(OWN_PATHS):
            return True
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return scheme.lower() == "bearer" and any(matches)


class UserKeyMiddleware:
    """Answers 401 on every path of vLLM without the users' key, and bounds all bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            front: Front = from_state(HTTPConnection(scope), "tempo_front")
            admitted = front.admits(HTTPConnection(scope))
            error: Exception = AuthenticationError(
                "this server needs a key; send 'Authorization: Bearer <the key that vLLM was "
                "started with>'"
            )
        except NotReadyError as starting:
            admitted = False
            error = starting
        if admitted:
            await self.app(scope, _bounded(receive, front.max_body_bytes), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await error_response(error)(scope, receive, send)


def _bounded(receive: Receive, max_bytes: int) -> Receive:
    """Return a function that reads a body; it raises TooLargeError, which answers 413."""
    received_bytes = 0

    async def bounded() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > max_bytes:
            raise TooLargeError(
                f"the request is larger than {max_bytes} bytes; send less, or let the operator "
                "raise TEMPO_MAX_REQUEST_BYTES"
            )
        return message

    return bounded


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def users_keys(args: Namespace, variable: str | None) -> list[str]:
    """Return the keys that vLLM takes from users: those of --api-key, or else VLLM_API_KEY."""
    return [key for key in (args.api_key or [variable]) if key]


def public_address(args: Namespace) -> str:
    """Return the address on which others reach vLLM's port, "" if only this machine does."""
    host = args.host or ""
    if args.uds or is_loopback(host):
        return ""
    return host or "0.0.0.0"  # vLLM listens everywhere without --host


def is_loopback(host: str) -> bool:
    """Tell whether a name or address leads to this machine only; an empty one stands for all."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host or "0.0.0.0", None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
