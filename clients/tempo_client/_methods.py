"""Methods that are written once, as coroutines, for both clients.

An `operation` is a method that blocks and returns its result where its client is Tempo, and one
that returns a coroutine where it is AsyncTempo. Called by the name of its class, as in
`Jobs.retrieve(jobs, job_id)`, it is the coroutine function, for another operation to await.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tempo_client._protocol import (
    Blocking,
    Connection,
    Request,
    Suspending,
    complete,
    exchange,
    get,
)
from tempo_client.errors import APIError
from tempo_client.types import Resource

C = TypeVar("C", Blocking, Suspending)
P = ParamSpec("P")
R = TypeVar("R", bound=Resource)
T = TypeVar("T")

PAGE = 100


class operation(Generic[P, T]):
    """Makes a method of a coroutine function, blocking or awaitable as its client is."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._function = function

    @overload
    def __get__(
        self, instance: None, owner: type
    ) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, instance: "Operations[Blocking]", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, instance: "Operations[Suspending]", owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: "Operations[Any] | None", owner: type) -> Any:
        if instance is None:
            return self._function
        awaitable: Callable[P, Coroutine[Any, Any, T]] = self._function.__get__(instance)
        if not instance._client._blocks:
            return awaitable

        @functools.wraps(awaitable)
        def blocking(*arguments: P.args, **keywords: P.kwargs) -> T:
            return complete(awaitable(*arguments, **keywords))

        return blocking


class Operations(Generic[C]):
    """Operations of a client."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    async def _ask(self, request: Request, kind: type[R]) -> R:
        return _parsed(kind, await self._exchange(request))

    async def _list(self, path: str, kind: type[R], *, after: str | None = None) -> list[R]:
        items: list[R] = []
        while True:
            query = {"after": after} if after else {}
            body = await self._exchange(get(path, limit=PAGE, **query))
            items += [_parsed(kind, item) for item in body["data"]]
            if not body["has_more"]:
                return items
            after = body["data"][-1]["id"]

    async def _exchange(self, request: Request) -> dict[str, Any]:
        client, most = self._client, self._client._max_retries
        return await exchange(request, client._send, client._sleep, max_retries=most)


def _parsed(kind: type[R], body: dict[str, Any]) -> R:
    try:
        return kind.parse(body)
    except TypeError as error:
        raise APIError(
            f"the server's {kind.__name__} lacks a field ({error}); "
            "install the SDK of the server's version"
        ) from error
