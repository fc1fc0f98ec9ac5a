"""The blocking and the asynchronous client; the only module that knows httpx."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

import httpx

from tempo_client._credentials import as_base_url, find_api_key, find_base_url
from tempo_client._methods import C
from tempo_client._operations import Deployment
from tempo_client._protocol import (
    MAX_RETRIES,
    Blocking,
    Failure,
    Outcome,
    Request,
    Response,
    Suspending,
)
from tempo_client.errors import ConfigurationError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

TIMEOUT_SECONDS = 600.0  # the server reads every reference of an upload before it answers
CONNECT_SECONDS = 5.0
NO_KEY = "none"  # OpenAI's client insists on a key; vLLM without --api-key takes any


class Client(Deployment[C]):
    """What both clients are."""

    _http_type: Any

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: Any = None,
    ) -> None:
        super().__init__(max_retries)
        self.base_url = as_base_url(base_url) if base_url else find_base_url()
        self._http = self._http_type(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key or find_api_key()}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            transport=transport,
        )


class Tempo(Client[Blocking]):
    """A blocking client of the admin API; thread-safe, and a context manager.

    Without arguments it finds the server by TEMPO_BASE_URL and the key by TEMPO_API_KEY,
    TEMPO_API_KEY_FILE or the admin.key of the data directory. `transport` is httpx's, for tests.
    """

    _blocks = True
    _http: httpx.Client
    _http_type = httpx.Client

    def openai(self, *, api_key: str = NO_KEY, **options: Any) -> "OpenAI":
        """Return an official client aimed at the same server's /v1; `api_key` is vLLM's own."""
        made: OpenAI = _openai().OpenAI(base_url=f"{self.base_url}/v1", api_key=api_key, **options)
        return made

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _send(self, request: Request) -> Outcome:
        try:
            return _response(self._http.request(request.method, request.path, **request.options))
        except httpx.RequestError as error:
            return _failure(error)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncTempo(Client[Suspending]):
    """An asynchronous client of the admin API; as Tempo, with awaitable methods."""

    _blocks = False
    _http: httpx.AsyncClient
    _http_type = httpx.AsyncClient

    def openai(self, *, api_key: str = NO_KEY, **options: Any) -> "AsyncOpenAI":
        """Return an official client aimed at the same server's /v1; `api_key` is vLLM's own."""
        made: AsyncOpenAI = _openai().AsyncOpenAI(
            base_url=f"{self.base_url}/v1", api_key=api_key, **options
        )
        return made

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, request: Request) -> Outcome:
        try:
            sent = await self._http.request(request.method, request.path, **request.options)
        except httpx.RequestError as error:
            return _failure(error)
        return _response(sent)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _response(response: httpx.Response) -> Response:
    return Response(response.status_code, dict(response.headers), response.content)


def _failure(error: httpx.RequestError) -> Failure:
    not_sent = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout
    return Failure(
        error,
        sent=not isinstance(error, not_sent),
        timed_out=isinstance(error, httpx.TimeoutException),
    )


def _openai() -> Any:
    try:
        import openai  # optional: the SDK itself needs httpx only
    except ImportError as error:
        raise ConfigurationError("openai is not installed; pip install openai") from error
    return openai
