"""The blocking and the asynchronous client; the only module that knows httpx."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from tempo_client._async_resources import (
    AsyncAdapters,
    AsyncFiles,
    AsyncJobs,
    AsyncTrainingSwitch,
)
from tempo_client._credentials import find_api_key, find_base_url
from tempo_client._operations import POLL_SECONDS, Labeled, Operations
from tempo_client._protocol import MAX_RETRIES, Failure, Flow, Outcome, Pause, Request, Response
from tempo_client._resources import Adapters, Files, Jobs, TrainingSwitch
from tempo_client.errors import ConfigurationError
from tempo_client.types import Job, Status

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

T = TypeVar("T")

TIMEOUT_SECONDS = 600.0  # the server reads every reference of an upload before it answers
CONNECT_SECONDS = 5.0
NO_KEY = "none"  # OpenAI's client insists on a key; vLLM without --api-key takes any


class Tempo:
    """A blocking client of the admin API; thread-safe, and a context manager.

    Without arguments it finds the server by TEMPO_BASE_URL and the key by TEMPO_API_KEY,
    TEMPO_API_KEY_FILE or the admin.key of the data directory. `transport` is httpx's, for tests.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: Any = None,
    ) -> None:
        self.base_url = (base_url or find_base_url()).rstrip("/")
        self._http = httpx.Client(
            **_options(self.base_url, api_key, timeout=timeout, transport=transport)
        )
        self._operations = Operations(max_retries)
        self.files = Files(self)
        self.jobs = Jobs(self)
        self.adapters = Adapters(self)
        self.training = TrainingSwitch(self)

    def status(self) -> Status:
        """Return the whole deployment at one moment."""
        return self._run(self._operations.status())

    def recalibrate(
        self,
        labeled: Labeled,
        *,
        wait: bool = True,
        timeout: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Upload labeled questions, a path or examples, and calibrate the critic with them."""
        return self._run(
            self._operations.recalibrate(
                labeled, wait=wait, timeout=timeout, poll_seconds=poll_seconds
            )
        )

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

    def _run(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                outcome = self._send(step)

    def _send(self, request: Request) -> Outcome:
        try:
            return _response(self._http.request(request.method, request.path, **_body(request)))
        except httpx.RequestError as error:
            return _failure(error)


class AsyncTempo:
    """An asynchronous client of the admin API; as Tempo, with awaitable methods."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_retries: int = MAX_RETRIES,
        transport: Any = None,
    ) -> None:
        self.base_url = (base_url or find_base_url()).rstrip("/")
        self._http = httpx.AsyncClient(
            **_options(self.base_url, api_key, timeout=timeout, transport=transport)
        )
        self._operations = Operations(max_retries)
        self.files = AsyncFiles(self)
        self.jobs = AsyncJobs(self)
        self.adapters = AsyncAdapters(self)
        self.training = AsyncTrainingSwitch(self)

    async def status(self) -> Status:
        """Return the whole deployment at one moment."""
        return await self._run(self._operations.status())

    async def recalibrate(
        self,
        labeled: Labeled,
        *,
        wait: bool = True,
        timeout: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> Job:
        """Upload labeled questions, a path or examples, and calibrate the critic with them."""
        return await self._run(
            self._operations.recalibrate(
                labeled, wait=wait, timeout=timeout, poll_seconds=poll_seconds
            )
        )

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

    async def _run(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                outcome = await self._send(step)

    async def _send(self, request: Request) -> Outcome:
        try:
            sent = await self._http.request(request.method, request.path, **_body(request))
        except httpx.RequestError as error:
            return _failure(error)
        return _response(sent)


def _options(
    base_url: str, api_key: str | None, *, timeout: float, transport: Any
) -> dict[str, Any]:
    return {
        "base_url": base_url,
        "headers": {"Authorization": f"Bearer {api_key or find_api_key()}"},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        "transport": transport,
    }


def _body(request: Request) -> dict[str, Any]:
    return {
        "params": request.query,
        "json": request.json,
        "files": request.files,
        "data": request.form,
    }


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
