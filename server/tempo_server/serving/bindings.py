"""Bind each request to one adapter: the model's name is resolved once, when the request enters.

vLLM finds an adapter by looking up `request.model` in a dict. Each adapter that we load is in that
dict under a secret key of ours, so that only this module decides who may name which adapter. The
aliases and the two public versions are there under their plain names too, for routes that the
plugin does not wrap.
"""

import asyncio
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo_server.context import Context
from tempo_storage.adapters import (
    BASE,
    BASE_NAME,
    NAME,
    Fingerprint,
    lora_int_id,
    version_name,
)
from tempo_storage.errors import (
    CorruptAdapterError,
    InvalidInputError,
    NotFoundError,
    UnservableAdapterError,
)

logger = logging.getLogger("vllm.tempo.serving")

# Adapters that stay bound beside the public ones: a round's snapshots, and versions that finish
# their requests.
MAX_OTHERS = 4
LOADS = 3  # of an adapter whose files change in the meantime, for example their rights


@dataclass(frozen=True, slots=True)
class Binding:
    """The adapter that answers a request: vLLM looks up `key`, the header shows `name`."""

    key: str
    name: str


@dataclass(eq=False)
class Bindings:
    """The names that this process's server answers.

    `models` is vLLM's OpenAIServingModels. `serving` and `previous` are the two public versions.
    """

    context: Context
    engine: Any
    models: Any
    serving: int = BASE
    previous: int = BASE

    def __post_init__(self) -> None:
        self._secret = secrets.token_hex(8)
        self._aliases = self.context.settings.alias_names
        self._base_names = [path.name for path in self.models.base_model_paths]
        self._loaded: dict[str, Any] = {}  # name -> LoRARequest, the least recently used first
        self._fingerprints: dict[str, Fingerprint] = {}  # of the files of each loaded adapter
        self._loading = asyncio.Lock()
        self._in_flight: list[str] = []  # the adapter's name of each request
        self._name_base()
        self.models.load_lora_adapter = self._guarded(self.models.load_lora_adapter)
        self.models.unload_lora_adapter = self._guarded(self.models.unload_lora_adapter)

    @asynccontextmanager
    async def bind(self, model: str | None, *, is_admin: bool) -> AsyncIterator[Binding | None]:
        """Bind a request for `model`; it counts as in flight until the block ends.

        Yields None if the name is unknown, or not allowed for users; vLLM then answers, mostly 404.
        Raises UnservableAdapterError for an adapter that this server cannot serve, or whatever
        vLLM raises when it loads one.
        """
        name = self._resolve(model or self._base_names[0])
        if name is None or not (is_admin or name in self._public()):
            yield None
            return
        self._in_flight.append(name)  # before it is loaded, so that nobody deletes its files
        try:
            yield await self._binding(name)
        finally:
            self._in_flight.remove(name)

    async def serve(self, version: int, *, previous: int) -> None:
        """Let the aliases answer with `version` from now on; requests in flight keep theirs.

        Raises UnservableAdapterError, NotFoundError or whatever vLLM raises; then nothing has
        changed.
        """
        if version != BASE:
            await self.load(version_name(version))
        old = self._public()
        self.serving = version
        self.previous = previous
        self._publish(old)
        self._forget_others()

    async def load(self, name: str) -> Any:
        """Have vLLM load a verified adapter; return its LoRARequest, one for each load.

        Raises UnservableAdapterError, NotFoundError or whatever vLLM raises.
        """
        if name not in self._loaded:
            async with self._loading:
                await self._load_verified(name)
        self._loaded[name] = request = self._loaded.pop(name)
        self._forget_others()
        return request

    def held(self) -> list[str]:
        """Return the adapters whose files this process may still read."""
        return sorted({*self._in_flight, *self._public(), *self._loaded})

    def is_listed(self, model: str) -> bool:
        """Tell whether /v1/models lists a name: it is not an adapter's, or it is public."""
        return NAME.fullmatch(model) is None or model in self._public()

    def parent(self, model: str) -> str | None:
        """Return the base's name for an alias or an adapter of ours, and None for other names."""
        is_base = model in self._base_names or not self._is_ours(model)
        return None if is_base else self._base_names[0]

    async def check_files(self) -> None:
        """Compare the loaded adapters whose files have changed since with the ledger again.

        vLLM reads an adapter anew that it has dropped from its memory. An adapter whose files are
        not those that were published is forgotten, unless it is public: the ledger then names
        another version.
        """
        for name in await asyncio.to_thread(self._changed):
            try:
                fingerprint, _ = await asyncio.to_thread(self._verified, name)
                if name in self._loaded:
                    self._fingerprints[name] = fingerprint
            except (UnservableAdapterError, NotFoundError) as error:
                logger.error("%s", error)
                if name not in self._public():
                    self._forget(name)

    async def _binding(self, name: str) -> Binding | None:
        if name == BASE_NAME:
            return Binding(key=BASE_NAME, name=BASE_NAME)
        try:
            await self.load(name)
        except NotFoundError:
            return None
        return Binding(key=self._key(name), name=name)

    def _resolve(self, model: str) -> str | None:
        """Return the adapter's name that a model's name stands for; None if it is not ours."""
        if model in self._aliases:
            return version_name(self.serving)
        if model in self._base_names:
            return BASE_NAME
        return model if NAME.fullmatch(model) else None

    def _public(self) -> set[str]:
        return {BASE_NAME, version_name(self.serving), version_name(self.previous)}

    async def _load_verified(self, name: str) -> None:
        from vllm.lora.request import LoRARequest  # vLLM runs already

        if name in self._loaded:
            return
        for _ in range(LOADS):
            before, path = await asyncio.to_thread(self._verified, name)
            # Name, id and path always belong together: a name with a second id kills vLLM's engine.
            request = LoRARequest(
                lora_name=name, lora_int_id=lora_int_id(name), lora_path=str(path.resolve())
            )
            await self.engine.add_lora(request)
            if await asyncio.to_thread(self.context.store.fingerprint, name) == before:
                self._fingerprints[name] = before
                self._loaded[name] = self.models.lora_requests[self._key(name)] = request
                logger.info("%s is loaded", name)
                return
            await self.engine.remove_lora(request.lora_int_id)
        raise CorruptAdapterError(f"{name}: its files change while vLLM reads them; roll back")

    def _verified(self, name: str) -> tuple[Fingerprint, Path]:
        """Return the fingerprint of an adapter as it was before it was verified, and its path."""
        fingerprint = self.context.store.fingerprint(name)
        return fingerprint, self.context.verify(name)

    def _changed(self) -> list[str]:
        """Return the loaded adapters whose files were written, replaced or added since."""
        loaded = [*self._fingerprints.items()]  # the event loop may load and forget meanwhile
        return [name for name, before in loaded if self._is_changed(name, before)]

    def _is_changed(self, name: str, before: Fingerprint) -> bool:
        try:
            return self.context.store.fingerprint(name) != before
        except NotFoundError:  # deleted; the loaded adapter goes on
            return False

    def _publish(self, old: set[str]) -> None:
        """Put the aliases and the public versions into vLLM's dict; take out the `old` names."""
        names = {name: name for name in self._public()}
        names |= dict.fromkeys(self._aliases, version_name(self.serving))
        for key in old | names.keys():
            request = self._loaded.get(names.get(key, ""))
            if request is None:  # no longer public, or the base
                self.models.lora_requests.pop(key, None)
            else:
                self.models.lora_requests[key] = request

    def _forget_others(self) -> None:
        # This forgets names only; the engine frees its memory by itself. We forget the least
        # recently used first. A request that was just bound keeps its key until vLLM looks it up.
        others = [name for name in self._loaded if name not in self._public()]
        for name in others[:-MAX_OTHERS]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._loaded.pop(name, None)
        self._fingerprints.pop(name, None)
        self.models.lora_requests.pop(self._key(name), None)

    def _key(self, name: str) -> str:
        return f"{name}~{self._secret}"

    def _guarded(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return vLLM's function that loads or unloads an adapter; it refuses our names.

        vLLM's routes /v1/load_lora_adapter and /v1/unload_lora_adapter call it. They exist where
        the operator set VLLM_ALLOW_RUNTIME_LORA_UPDATING.
        """

        @functools.wraps(function)
        async def guarded(request: Any, *arguments: Any, **options: Any) -> Any:
            if self._is_ours(request.lora_name):
                raise InvalidInputError(
                    f"lora_name: {request.lora_name!r} is a name of vllm-tempo; choose another"
                )
            return await function(request, *arguments, **options)

        return guarded

    def _is_ours(self, name: str) -> bool:
        return name in self._aliases or NAME.fullmatch(name) is not None

    def _name_base(self) -> None:
        from vllm.entrypoints.openai.models.protocol import BaseModelPath

        ours = [name for name in self.models.lora_requests if self._is_ours(name)]
        if ours:
            raise InvalidInputError(
                f"--lora-modules: {ours[0]!r} is a name of vllm-tempo; choose another"
            )
        for name in (*self._aliases, BASE_NAME):
            if NAME.fullmatch(name) and name != BASE_NAME:
                raise InvalidInputError(f"alias {name!r} is an adapter's name; choose another")
            if name not in self._base_names:
                path = BaseModelPath(name=name, model_path=self.context.base)
                self.models.base_model_paths.append(path)
