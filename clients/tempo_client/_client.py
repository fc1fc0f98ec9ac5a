"""The blocking and the asynchronous client."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

import httpx

from tempo_client._credentials import as_base_url, find_api_key, find_base_url, trusts_environment
from tempo_client._operations import Deployment
from tempo_client._protocol import MAX_RETRIES, Blocking, C, Request, Suspending
from tempo_client.errors import ConfigurationError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

TIMEOUT_SECONDS = 600.0  # the server checks all references of an upload before it answers
CONNECT_SECONDS = 5.0
NO_KEY = "none"  # OpenAI's client insists on a key; vLLM without --api-key accepts any


class Client(Deployment[C]):
    """The constructor of both clients."""

    _http_type: Any

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: Any = None,
        trust_env: bool | None = None,
    ) -> None:
        super().__init__(max_retries)
        self.base_url = as_base_url(base_url) if base_url else find_base_url()
        self.trust_env = trusts_environment(self.base_url, trust_env)
        self._http = self._http_type(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key or find_api_key()}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            transport=transport,
            trust_env=self.trust_env,
        )


class Tempo(Client[Blocking]):
    """A blocking client of the admin API. It is thread-safe and a context manager.

    Without `base_url` it uses TEMPO_BASE_URL, or http://127.0.0.1:8000. Without `api_key` it uses
    TEMPO_API_KEY, the file TEMPO_API_KEY_FILE, or `admin.key` in TEMPO_DATA_DIR. `timeout` is in
    seconds per request; `transport` is httpx's, for tests. With `trust_env`, by default that of
    TEMPO_TRUST_ENV, proxies and certificates of the environment are used, but never for a server on
    this machine. Raises ConfigurationError where the address is not a URL or no key can be read.
    """

    _blocks = True
    _http: httpx.Client
    _http_type = httpx.Client

    def openai(self, *, api_key: str = NO_KEY, **options: Any) -> "OpenAI":
        """Return OpenAI's client for the same server's /v1; `api_key` is that of vLLM."""
        module = _import_openai()
        if "http_client" not in options:
            options["http_client"] = module.DefaultHttpxClient(trust_env=self.trust_env)
        url = f"{self.base_url}/v1"
        client: OpenAI = module.OpenAI(base_url=url, api_key=api_key, **options)
        return client

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _send(self, request: Request) -> httpx.Response:
        return self._http.request(request.method, request.path, **request.options)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class AsyncTempo(Client[Suspending]):
    """An asynchronous client of the admin API: Tempo with awaitable methods."""

    _blocks = False
    _http: httpx.AsyncClient
    _http_type = httpx.AsyncClient

    def openai(self, *, api_key: str = NO_KEY, **options: Any) -> "AsyncOpenAI":
        """Return OpenAI's client for the same server's /v1; `api_key` is that of vLLM."""
        module = _import_openai()
        if "http_client" not in options:
            options["http_client"] = module.DefaultAsyncHttpxClient(trust_env=self.trust_env)
        url = f"{self.base_url}/v1"
        client: AsyncOpenAI = module.AsyncOpenAI(base_url=url, api_key=api_key, **options)
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, request: Request) -> httpx.Response:
        return await self._http.request(request.method, request.path, **request.options)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _import_openai() -> Any:
    try:
        import openai  # optional: the SDK itself needs httpx only
    except ImportError as error:
        raise ConfigurationError("openai is not installed; pip install openai") from error
    return openai
