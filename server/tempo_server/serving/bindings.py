"""Which adapter a request is bound to: the name is resolved once, at entry, and stays.

vLLM finds an adapter by looking `request.model` up in a dict. Every adapter that we load is in it
under a key of our own that nobody outside can guess, so that only this module decides who may
name what; the aliases and the two public versions are there under their plain names too, for the
routes that are not wrapped.
"""

import asyncio
import logging
import secrets
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tempo_storage.adapters import BASE, NAME, AdapterStore, lora_int_id, version_name
from tempo_storage.errors import InvalidInputError, NotFoundError

logger = logging.getLogger("vllm.tempo.bindings")

KEPT = 4  # adapters beside the public ones that stay bound: a round's snapshots, draining versions
BASE_NAME = version_name(BASE)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Binding:
    """What answers a request: `key` is what vLLM looks up, `name` what the header says.

    The request is under way while its binding is referred to.
    """

    key: str
    name: str


@dataclass(eq=False)
class Bindings:
    """The names of this process's server.

    `models` is vLLM's OpenAIServingModels; `lora_request` and `base_model_path` are its classes
    LoRARequest and BaseModelPath.
    """

    engine: Any
    models: Any
    _: KW_ONLY
    lora_request: Callable[..., Any]
    base_model_path: Callable[..., Any]
    store: AdapterStore
    base: str
    rank: int
    aliases: tuple[str, ...]
    serving: int = BASE
    previous: int = BASE

    def __post_init__(self) -> None:
        self._secret = secrets.token_hex(8)
        self._base_names = [path.name for path in self.models.base_model_paths]
        self._loaded: dict[str, Any] = {}  # name -> LoRARequest, the least recently asked for first
        self._loading = asyncio.Lock()
        self.in_flight: Counter[str] = Counter()  # name -> requests
        self._name_the_base()

    async def bind(self, model: str | None, *, known_key: bool) -> Binding | None:
        """Return what a request for `model` is bound to; None leaves the answer to vLLM.

        Raises UnservableAdapterError when the adapter may be named but not served.
        """
        name = self._resolve(model or self._base_names[0])
        if name == BASE_NAME:
            return self._counted(Binding(key=BASE_NAME, name=BASE_NAME))
        if name is None or not (known_key or name in self._public()):
            return None
        binding = self._counted(Binding(key=self._key(name), name=name))  # while it loads, too
        try:
            await self.load(name)
        except NotFoundError:
            return None
        return binding

    async def serve(self, version: int, *, previous: int) -> None:
        """Let the aliases answer with `version` from now on; requests under way are not touched.

        Raises UnservableAdapterError or NotFoundError, and then nothing has changed.
        """
        if version != BASE:
            await self.load(version_name(version))
        old = self._public()
        self.serving, self.previous = version, previous
        self._publish(old)
        self._sweep()

    async def load(self, name: str) -> Any:
        """Have vLLM load a verified adapter; return its LoRARequest, one for each load.

        Raises UnservableAdapterError or NotFoundError.
        """
        if name not in self._loaded:
            async with self._loading:
                await self._load_verified(name)
        self._loaded[name] = request = self._loaded.pop(name)
        self._sweep()
        return request

    def held(self) -> list[str]:
        """Return the adapters whose files this process may still read."""
        return sorted({*self.in_flight, *self._public(), *self._loaded})

    def is_listed(self, card_id: str) -> bool:
        """Tell whether /v1/models shows a name: of our adapters, those that users may name."""
        return NAME.fullmatch(card_id) is None or card_id in self._public()

    def _counted(self, binding: Binding) -> Binding:
        self.in_flight[binding.name] += 1
        weakref.finalize(binding, self._ended, binding.name).atexit = False
        return binding

    def _ended(self, name: str) -> None:
        self.in_flight[name] -= 1
        if not self.in_flight[name]:
            del self.in_flight[name]

    def _resolve(self, model: str) -> str | None:
        if model in self.aliases:
            return version_name(self.serving)
        if model in self._base_names:
            return BASE_NAME
        return model if NAME.fullmatch(model) else None

    def _public(self) -> set[str]:
        return {BASE_NAME, version_name(self.serving), version_name(self.previous)}

    async def _load_verified(self, name: str) -> None:
        if name in self._loaded:
            return
        path = await asyncio.to_thread(self.store.verify, name, base=self.base, rank=self.rank)
        # Name, id and path are one: a name with a second id kills vLLM's engine.
        request = self.lora_request(
            lora_name=name, lora_int_id=lora_int_id(name), lora_path=str(path.resolve())
        )
        await self.engine.add_lora(request)
        self._loaded[name] = self.models.lora_requests[self._key(name)] = request
        logger.info("%s is loaded", name)

    def _publish(self, old: set[str]) -> None:
        requests = self.models.lora_requests
        for name in old - self._public():
            requests.pop(name, None)
        names = {name: name for name in self._public()}
        names |= dict.fromkeys(self.aliases, version_name(self.serving))
        for key, name in names.items():
            if name in self._loaded:
                requests[key] = self._loaded[name]
            else:
                requests.pop(key, None)

    def _sweep(self) -> None:
        # The engine's memory is its own LRU's business; this only forgets the names. Those that
        # were just bound are the newest, so a request between check and look-up keeps its key.
        others = [name for name in self._loaded if name not in self._public()]
        for name in others[:-KEPT]:
            del self._loaded[name]
            self.models.lora_requests.pop(self._key(name), None)

    def _key(self, name: str) -> str:
        return f"{name}~{self._secret}"

    def _name_the_base(self) -> None:
        for name in (*self.aliases, BASE_NAME):
            if NAME.fullmatch(name) and name != BASE_NAME:
                raise InvalidInputError(f"alias {name!r} is an adapter's name; choose another")
            if name not in self._base_names:
                path = self.base_model_path(name=name, model_path=self.base)
                self.models.base_model_paths.append(path)
