"""Methods that are written once, as coroutine functions, for both clients.

`@operation` turns a coroutine function into a method. On a Tempo the method blocks and returns the
result; on an AsyncTempo it returns the coroutine. `tempo.jobs.retrieve(job_id)` is such a call. An
operation that awaits another one calls it on the class, `Jobs.retrieve(jobs, job_id)`, and gets
the coroutine from either client.
"""

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tempo_client._protocol import (
    Blocking,
    C,
    Connection,
    Request,
    Suspending,
    complete,
    exchange,
    get,
)
from tempo_client.errors import APIError
from tempo_client.types import Resource

P = ParamSpec("P")
R = TypeVar("R", bound=Resource)
T = TypeVar("T")

PAGE_SIZE = 100


class operation(Generic[P, T]):
    """Turns a coroutine function into a method: blocking on a Tempo, awaitable on an AsyncTempo."""

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
    """A group of operations, such as `tempo.jobs`; C says whether they block."""

    def __init__(self, client: Connection[C]) -> None:
        self._client = client

    async def _call(self, request: Request, kind: type[R]) -> R:
        return _parse(kind, await exchange(self._client, request))

    async def _list(
        self,
        path: str,
        kind: type[R],
        *,
        until: str | None = None,
        limit: int = 0,
        filters: Mapping[str, str] | None = None,
    ) -> list[R]:
        """Return the first `limit` items of a list (0: all), or those before the id `until`."""
        items: list[R] = []
        query = dict(filters or {})
        while True:
            size = min(PAGE_SIZE, limit - len(items)) if limit else PAGE_SIZE
            body = await exchange(self._client, get(path, limit=size, **query))
            for item in body["data"]:
                if until is not None and item.get("id") == until:
                    return items
                items.append(_parse(kind, item))
            if not body["has_more"] or (limit and len(items) >= limit):
                return items
            query["after"] = body["data"][-1]["id"]


def _parse(kind: type[R], body: dict[str, Any]) -> R:
    try:
        return kind.parse(body)
    except TypeError as error:
        raise APIError(
            f"the server's {kind.__name__} lacks a field ({error}); "
            "install the SDK of the server's version"
        ) from error
